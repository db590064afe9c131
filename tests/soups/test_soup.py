"""Soups: grids, rules of choice, and a sweep against separate evaluations of every mix."""

import json
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

import inure
from inure.averaging.adaptation import choose_by_shots, few_shot_curve
from inure.averaging.soup import Point, affine_grid, choose, describe_mix, pareto_front
from inure.averaging.whole_nets import greedy_members, join, uniform_soup, weighted_soup
from inure.commands import _run
from inure.data import Readout
from inure.data import load as load_images
from inure.display.console import Bars
from inure.evaluation import SUITES, evaluate
from inure.evaluation.examples import Examples
from inure.evaluation.sweep import sweep
from inure.models.adapters.stacks import adapter_names
from inure.recipe.recipe import load_recipe
from inure.runs.checkpoints import write_weights
from inure.runs.load import load
from inure.settings.errors import UserError
from inure.soups.soup_shifts import adapt_to_shifts
from inure.targets.target import parse_mode
from inure.threat import Linf
from inure.training.train import train

SETTINGS = [
    "model.name=wrn10_1", "model.adapters=norm", "epochs=3", "batch_size=64", "checkpoint.every=3",
    "evaluation.validation_steps=2", "method.attack.steps=2", "regime.epsilon=null",
    "method.attack.threat.epsilon=0.1", "evaluation.threat.epsilon=0.1",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small net with norms per domain, moved apart by hand after a short training."""
    torch.set_num_threads(1)
    path = train(load_recipe("digits/soup", SETTINGS), tmp_path_factory.mktemp("soup") / "run", quiet=True)
    net = load(path)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name in adapter_names(net):
                tensor[1] += 0.2 * torch.randn(tensor[1].shape, generator=generator)
    write_weights(path / "weights.safetensors", net)
    return path


@pytest.mark.parametrize(
    ("domains", "text", "count"),
    [
        (("clean", "robust"), "-0.4:1.4:0.1", 19),
        (("a", "b", "c", "d"), "-0.4:1.4:0.2", 480),
        (("a", "b", "c"), "0:1:0.2", 21),
        (("a", "b"), "0:1:1", 2),
    ],
)
def test_grids_are_exact(domains, text, count):
    mixes = affine_grid(domains, text)
    assert len(mixes) == count == len({tuple(mix.values()) for mix in mixes})
    step = Fraction(text.rpartition(":")[2])
    for mix in mixes:
        assert sum(Fraction(weight).limit_denominator(100) for weight in mix.values()) == 1
        assert all(weight == float(round(weight / float(step)) * step) for weight in mix.values())


@pytest.mark.parametrize("text", ["0:1", "1:0:0.1", "0:1:0.3", "0:1:0", "a:b:c", "0.05:1:0.1", "0:0.4:0.2", "0:1:-0.1"])
def test_a_grid_that_makes_no_sense_is_refused(text):
    with pytest.raises(UserError, match="--grid: got"):
        affine_grid(("clean", "robust"), text)


def test_a_mix_is_written_as_mode_reads_it():
    for mix in affine_grid(("clean", "robust")):
        again = parse_mode(describe_mix(mix))
        again = {again: 1.0} if isinstance(again, str) else again
        assert {name: weight for name, weight in mix.items() if weight} == again


POINTS = [
    Point({"clean": 1.0, "robust": 0.0}, 0.98, 0.20),
    Point({"clean": 0.7, "robust": 0.3}, 0.97, 0.50),
    Point({"clean": 0.5, "robust": 0.5}, 0.94, 0.55),
    Point({"clean": 0.3, "robust": 0.7}, 0.93, 0.55),
    Point({"clean": 0.0, "robust": 1.0}, 0.80, 0.60),
]


@pytest.mark.parametrize(
    ("rule", "place"),
    [
        ("robust", 4),
        ("clean", 0),
        ("mean", 2),
        ("knee", 1),
        ("clean>=0.9", 2),
        ("clean >= 0.95", 1),
        ("clean>=0.98", 0),
    ],
)
def test_rules_choose(rule, place):
    assert choose(POINTS, rule) == place


def test_rules_that_nothing_fulfils_are_refused():
    for rule in ("clean>=0.99", "fastest", "clean>="):
        with pytest.raises(UserError, match="--choose"):
            choose(POINTS, rule)


@pytest.mark.parametrize("rule", ["clean>=.", "clean>=0.8.1", "clean>=-0.1", "clean>=nan", "clean>= ", "clean>0.5"])
def test_a_bound_that_is_no_number_is_refused_in_one_line(rule):
    with pytest.raises(UserError, match=r"--choose: got .*; allowed robust \| clean \| mean") as caught:
        choose(POINTS, rule)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rule", ["clean>=.5", "clean>=0.50", "clean>=0."])
def test_a_bound_may_be_written_in_several_ways(rule):
    assert choose(POINTS, rule) == 4


@pytest.mark.parametrize("order", [1, -1])
def test_ties_of_means_do_not_depend_on_how_the_sums_round(order):
    assert 0.15 + 0.15 != 0.1 + 0.2  # the greater one in floats, by a bit
    assert 0.7 + 0.1 != 0.5 + 0.3
    for pairs, best in (
        ([(0.15, 0.15), (0.1, 0.2)], (0.1, 0.2)),
        ([(0.2, 0.1), (0.15, 0.15)], (0.15, 0.15)),
        ([(0.7, 0.1), (0.5, 0.3), (0.8, 0.0)], (0.5, 0.3)),
    ):
        points = [Point({"clean": 0.5 + i, "robust": 0.5 - i}, *pair) for i, pair in enumerate(pairs)][::order]
        assert points[choose(points, "mean")][1:] == best, "the more robust of equal means"
    same = [Point({"clean": w, "robust": 1 - w}, *pair) for w, pair in ((0.9, (0.1, 0.2)), (0.4, (0.1, 0.2)))][::order]
    assert same[choose(same, "mean")].mix["clean"] == 0.4, "then the one nearest to equal weights"
    apart = [Point({"clean": 1.0, "robust": 0.0}, 0.5, 0.4001), Point({"clean": 0.5, "robust": 0.5}, 0.4, 0.5)]
    assert choose(apart, "mean") == 0, "a real difference is no tie"


def test_the_front_holds_what_no_other_beats():
    assert pareto_front(POINTS) == [4, 2, 1, 0]
    same = [Point({"a": 1.0}, 0.5, 0.5), Point({"a": 1.0}, 0.5, 0.5)]
    assert pareto_front(same) == [0, 1]


def test_few_labelled_images_choose_and_ties_go_to_equal_weights():
    mixes = [point.mix for point in POINTS]
    right = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 1]], dtype=torch.bool)
    assert choose_by_shots(right, mixes, torch.tensor([0, 1, 2])) == 2
    assert choose_by_shots(right, mixes, torch.tensor([3])) == 3
    generator = torch.Generator().manual_seed(0)
    chances = torch.tensor([0.5, 0.6, 0.7, 0.8, 0.5])[:, None].expand(5, 1000)
    many = torch.bernoulli(chances, generator=generator).bool()
    curve = few_shot_curve(many, mixes, (10, 100, 500, 2000))
    assert [row[0] for row in curve] == [10, 100, 500]
    assert curve[0][1] < curve[1][1] <= curve[2][1] + 0.01
    assert curve[2][1] == pytest.approx(float(many[3].double().mean()), abs=0.02)


def test_soups_of_weights():
    states = [{"w": torch.full((2,), float(i)), "n": torch.tensor(i)} for i in range(3)]
    assert torch.equal(uniform_soup(states)["w"], torch.ones(2))
    assert torch.equal(weighted_soup(states, [-0.5, 0.5, 1.0])["w"], torch.full((2,), 2.5))
    with pytest.raises(UserError, match="sum is 1"):
        weighted_soup(states, [0.5, 0.5, 0.5])
    with pytest.raises(UserError, match="one architecture"):
        uniform_soup([states[0], {"w": torch.zeros(3), "n": torch.tensor(0)}])
    members = greedy_members(3, lambda chosen: -abs(float(uniform_soup([states[i] for i in chosen])["w"][0]) - 1.6))
    assert members == [2, 1]


def test_a_sweep_finds_what_separate_evaluations_find(run):
    net, images = load(run), load_images("digits", "test").head(32)  # as many as the least batch
    mixes = affine_grid(net.domains, "-0.4:1.4:0.2")
    threat = Linf(epsilon=0.1)
    found = sweep(net, Examples.of(images, None), mixes, SUITES["pgd20"](threat), threat=threat, batch_size=100)
    forwards = backwards = 0
    for place, mix in enumerate(mixes):
        alone = evaluate(net, images, suite="pgd20", threat=threat, mode=mix)
        assert float(found.clean[place].double().mean()) == alone.summary["clean_accuracy"]
        assert not (found.robust[place] & ~alone.robust).any(), "a pair stands that an evaluation breaks"
        lost = (alone.robust & ~found.robust[place]).float().mean()
        assert lost <= 0.1
        forwards += len(images) + sum(a["forwards"] for a in alone.summary["attacks"])
        backwards += sum(a["backwards"] for a in alone.summary["attacks"])
    assert found.borrowed > 0
    assert found.forwards <= forwards
    assert found.backwards <= backwards
    for (mix, row), x_adv in found.broken.items():
        x = images.batch(torch.tensor([row])).float() / 255
        assert threat.distance(x_adv[None], x).item() <= 0.1 + 1e-6
        assert net(x_adv[None], mix=mixes[mix]).argmax().item() != images.labels[row].item()


def test_a_sweep_without_attacks_counts_clean_images_alone(run):
    net, images = load(run), load_images("digits", "test").head(40)
    mixes = affine_grid(net.domains, "0:1:0.5")
    found = sweep(net, Examples.of(images, None), mixes, [], threat=Linf(epsilon=0.1), batch_size=7)
    assert torch.equal(found.robust, found.clean)
    assert (found.forwards, found.backwards) == (120, 0)


def test_the_command_writes_table_figure_and_numbers(run, capsys):
    line = ["soup", str(run), "--grid", "0:1:0.25", "--choose", "clean>=0.1", "--few-shot", "20", "--examples", "60"]
    assert _run(line) == 0
    out, err = capsys.readouterr()
    folder = run / "soups" / "pgd20"
    assert out == f"{folder}\n"
    assert "20 images choose, 40 others are measured" in err
    result = json.loads((folder / "soup.json").read_text())
    assert [soup["mix"] for soup in result["soups"]][:2] == ["robust", "clean=0.25,robust=0.75"]
    assert {"robust", "clean", "mean", "knee", "clean>=0.1"} == {*result["chosen"]}
    assert result["protocol"]["examples"] == 60
    assert result["few_shot"]["examples"] == 40
    choices = result["few_shot"]["choices"]
    assert {"clean", "robust", "few labels", "gradient on the labels", "no labels", "per image"} < {*choices}
    assert choices["few labels"]["accuracy"] <= choices["best in hindsight"]["accuracy"]
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert len((folder / "table.md").read_text().splitlines()) == 7
    assert _run(["report", str(run), "--out", str(run / "page.html")]) == 0
    page = (run / "page.html").read_text()
    assert "The dial" in page
    assert all(f"<code>{mix}</code>" in page for mix in result["chosen"].values())


def test_modes_are_evaluated_apart_and_robust_is_the_usual_one(run, capsys, tmp_path):
    assert _run(["evaluate", str(run), "--suite", "clean", "--examples", "60", "-q"]) == 0
    assert capsys.readouterr().out == f"{run}/evaluations/clean\n"
    assert _run(["evaluate", str(run), "--suite", "clean", "--examples", "60", "-q", "--mode", "clean"]) == 0
    assert capsys.readouterr().out == f"{run}/evaluations/clean-clean\n"
    images, net = load_images("digits", "test").head(60), load(run)
    x, y = images.batch(torch.arange(60)).float() / 255, images.labels
    for place, mode in (("clean", "robust"), ("clean-clean", "clean")):
        summary = json.loads((run / "evaluations" / place / "summary.json").read_text())
        assert summary["mode"] == mode
        assert summary["clean_accuracy"] == (net(x, mix=mode).argmax(1) == y).double().mean().item()
        assert torch.equal(load(run, mode=mode)(x), net(x, mix=mode))
        assert inure.fold(net, mode).domains == ()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["soup", "RUN", "--grid", "0:1:0.3"], "--grid: got 0:1:0.3"),
        (["soup", "RUN", "--suite", "pgd21"], "--suite: got pgd21"),
        (["soup", "RUN", "--few-shot", "60", "--examples", "60"], "--few-shot: got 60; allowed 1 to 59"),
        (["soup", "RUN", "--examples", "0"], "--examples: got 0"),
        (["soup", "RUN", "--shift", "digits#test@fgo:3"], "--shift: got @fgo:3"),
        (["soup", "RUN", "--shift", "digits#test", "--examples", "100"], "--few-shot: got 100; allowed 1 to 99"),
        (["soup", "RUN", "--against", "RUN"], "--against: got"),
        (["soup", "nowhere"], "RUN: got nowhere"),
        (["evaluate", "RUN", "--mode", "robus"], "--mode: got robus; allowed clean | robust; try robust"),
        (["evaluate", "RUN", "--mode", "clean=0.5"], "--mode: got {'clean': 0.5}"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(run, capsys, arguments, line):
    assert _run([str(run) if word == "RUN" else word for word in arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"inure: {line}")
    assert err.count("\n") == 1


SHORT = ["model.name=cnn_tiny", "epochs=1", "evaluation.validation_steps=1", "method.attack.steps=1"]


@pytest.fixture(scope="module")
def relatives(tmp_path_factory):
    """Two runs that start from the weights of one."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("relatives")
    first = train(load_recipe("digits/pgd_at", SHORT), folder / "first", quiet=True)
    settings = [*SHORT, f"model.weights={first}"]
    return [train(load_recipe("digits/pgd_at", [*settings, f"seed={k}"]), folder / f"r{k}", quiet=True) for k in (1, 2)]


def test_whole_nets_joined_are_each_of_them_and_their_weighted_means(relatives):
    nets = {path.name: load(path) for path in relatives}
    joined, x = join(nets), torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for name, net in nets.items():
        assert torch.equal(joined(x, mix=name), net(x))
    weights = {"r1": 0.3, "r2": 0.7}
    plain = weighted_soup([net.state_dict() for net in nets.values()], list(weights.values()))
    folded = inure.fold(joined, weights).state_dict()
    assert {*folded} == {*plain}
    assert all(torch.allclose(folded[name].double(), plain[name].double(), atol=1e-6) for name in plain)


def test_soups_of_several_runs_on_the_command_line(relatives, tmp_path, capsys):
    out = tmp_path / "soup"
    line = ["soup", *map(str, relatives), "--grid", "0:1:0.5", "--suite", "fgsm", "--examples", "60", "--out", str(out)]
    assert _run([*line, "--choose", "clean"]) == 0
    assert "--weights" in capsys.readouterr().err
    result = json.loads((out / "soup.json").read_text())
    assert {"uniform", "greedy", "clean", "mean"} < {*result["chosen"]}
    assert result["chosen"]["uniform"] == "r1=0.5,r2=0.5"
    by_mix = {entry["mix"]: entry["robust_accuracy"] for entry in result["soups"]}
    assert by_mix[result["chosen"]["greedy"]] >= max(by_mix["r1"], by_mix["r2"])
    evaluated = tmp_path / "evaluated"
    arguments = ["--suite", "clean", "--weights", str(out / "weights.safetensors"), "--out", str(evaluated), "-q"]
    assert _run(["evaluate", str(relatives[0]), *arguments]) == 0
    mix = next(entry["weights"] for entry in result["soups"] if entry["mix"] == result["chosen"]["clean"])
    joined, images = join({path.name: load(path) for path in relatives}), load_images("digits", "test")
    x = images.batch(torch.arange(len(images))).float() / 255
    right = (joined(x, mix=mix).argmax(1) == images.labels).double().mean().item()
    found = json.loads((evaluated / "summary.json").read_text())["clean_accuracy"]
    assert found == pytest.approx(right, abs=0.004)


def test_runs_of_other_nets_or_images_are_refused(run, relatives, tmp_path, capsys):
    other = train(load_recipe("digits/pgd_at", [*SHORT, "data.validation=0.2"]), tmp_path / "other", quiet=True)
    for runs, line in (
        ([run, relatives[0]], "a net with domains; allowed nets without domains"),
        ([relatives[0], other], "--data: got nothing; allowed images to choose by"),
        ([relatives[0], relatives[0]], "RUN: got"),
    ):
        assert _run(["soup", *map(str, runs), "--suite", "clean", "-q"]) == 2
        assert line in capsys.readouterr().err


def test_a_soup_is_chosen_for_every_shifted_set_and_measured_on_its_other_images(run, relatives, tmp_path, capsys):
    out = tmp_path / "shifts"
    sets = ["digits#test@fog:3", "digits#test@pixelate:2"]
    line = ["soup", str(run), "--suite", "clean", "--grid", "0:1:0.25", "--examples", "80", "--few-shot", "30"]
    shifts = [word for spec in sets for word in ("--shift", spec)]
    assert _run([*line, *shifts, "--against", str(relatives[0]), "--out", str(out)]) == 0
    assert "in points of mean accuracy over" in capsys.readouterr().err
    shifted = json.loads((out / "soup.json").read_text())["shifts"]
    assert [part["name"] for part in shifted["sets"]] == sets
    net, other = load(run), load(relatives[0])
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    for spec, part in zip(sets, shifted["sets"], strict=True):
        images = load_images(spec, "test").head(80)
        x, y = images.batch(torch.arange(80)).float() / 255, images.labels

        def accuracy(rows, model, x=x, y=y, **options):
            return (model(x, **options).argmax(1) == y)[rows].double().mean().item()

        assert part["examples"] == 50
        choices = part["choices"]
        best = max(accuracy(order[:30], net, mix=mix) for mix in affine_grid(net.domains, "0:1:0.25"))
        assert accuracy(order[:30], net, mix=choices["few labels"]["weights"]) == best
        for name in ("few labels", "single soup", "clean", "robust", "no labels", "gradient on the labels"):
            assert choices[name]["accuracy"] == pytest.approx(accuracy(order[30:], net, mix=choices[name]["weights"]))
        assert choices["against"]["accuracy"] == pytest.approx(accuracy(order[30:], other))
    gain = shifted["gains"]["against"]["difference"]
    assert gain == pytest.approx(shifted["mean"]["few labels"] - shifted["mean"]["against"])
    assert (out / "shifts.png").read_bytes().startswith(b"\x89PNG")
    assert len((out / "shifts.md").read_text().splitlines()) == 5


def test_sets_of_other_classes_are_read_through_their_readout(run, relatives):
    net, other, digits = load(run), load(relatives[0]), load_images("digits", "test")
    chosen = (3, 8, 9)
    kept = torch.isin(digits.labels, torch.tensor(chosen)).nonzero().flatten()
    some = digits.subset(kept)
    labels = torch.tensor([chosen.index(int(label)) for label in some.labels])
    readout = Readout(groups=tuple((k,) for k in chosen), classes=10)
    images = replace(some, labels=labels, class_names=("3", "8", "9"), readout=readout)
    shifted = adapt_to_shifts(
        net, [images], affine_grid(net.domains, "0:1:0.5"), 20, baseline=other, seed=0, batch_size=32,
        device=torch.device("cpu"), bars=Bars(quiet=True),
    )  # fmt: skip
    rest = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[20:]
    x = images.batch(rest).float() / 255
    (part,) = shifted["sets"]
    for name, model, mix in (("clean", net, "clean"), ("robust", net, "robust"), ("against", other, None)):
        right = (model(x, mix=mix)[:, list(chosen)].argmax(1) == labels[rest]).double().mean().item()
        assert part["choices"][name]["accuracy"] == pytest.approx(right), name
    assert part["choices"]["gradient on the labels"]["accuracy"] > 1 / 3


def test_a_run_without_domains_is_refused(tmp_path, capsys):
    path = train(load_recipe("digits/standard", ["model.name=cnn_tiny", "epochs=1"]), tmp_path / "run", quiet=True)
    assert _run(["soup", str(path)]) == 2
    assert "a run whose net has domains" in capsys.readouterr().err
