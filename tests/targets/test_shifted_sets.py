"""The suites ``corruptions`` and ``shifts``: one ordinary evaluation for each set, resumed, averaged, gated."""

import json
import shlex
from dataclasses import replace

import pytest
import torch

from inure.commands import _run
from inure.data import load as load_images
from inure.data import named_sets
from inure.data.corruptions import CORRUPTIONS, corrupted
from inure.evaluation import SUITES, Conditions, Workers, evaluate
from inure.recipe.recipe import load_recipe
from inure.runs.load import load
from inure.targets.evaluate import evaluate_target
from inure.targets.request import Request
from inure.targets.set_suites import split_suite
from inure.targets.shifted_sets import evaluate_sets
from inure.threat import Linf
from inure.training.train import train
from processes import Command, inure

FEW = ("fog", "pixelate")
SPECS = ["digits#test@fog:3", "digits#test@glass_blur:5", "digits#train"]


def on_sets(net, images, sets, *, suite, shape=None, **conditions):
    """The summary of ``evaluate_sets``."""
    return evaluate_sets(Conditions(**conditions), net, images, sets, suite, shape=shape)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    changes = ["model.name=cnn_tiny", "epochs=5", "optimizer.lr=0.02", "evaluation.threat.epsilon=0.04"]
    train(load_recipe("digits/standard", changes), folder / "run", quiet=True)
    return folder


@pytest.fixture
def few(monkeypatch):
    """Two corruptions, so that all of them are ten sets."""
    monkeypatch.setattr(named_sets, "CORRUPTIONS", {name: CORRUPTIONS[name] for name in FEW})


@pytest.fixture(autouse=True)
def _there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def ended(capsys, line: str) -> tuple[int, str, str]:
    code = _run(shlex.split(line))
    return code, *capsys.readouterr()


def summary_at(path) -> dict:
    return json.loads((path / "summary.json").read_text())


def timeless(tree):
    """Without seconds."""
    if isinstance(tree, dict):
        return {key: timeless(value) for key, value in tree.items() if key not in ("seconds", "command")}
    return [timeless(value) for value in tree] if isinstance(tree, list) else tree


@pytest.mark.usefixtures("few")
def test_every_set_is_what_an_evaluation_of_it_finds_and_means_count_each_once(folder, capsys, tmp_path):
    out = tmp_path / "all"
    code, printed, err = ended(capsys, f"evaluate run --suite corruptions+fgsm --examples 40 --out {out}")
    assert (code, printed) == (0, f"{out}\n")
    summary, net, digits = summary_at(out), load("run"), load_images("digits#test", None).head(40)
    assert [(s["corruption"], s["severity"]) for s in summary["sets"]] == [(k, s) for k in FEW for s in range(1, 6)]
    shares: dict = {"clean": {}, "robust": {}}
    for entry in summary["sets"]:
        place = entry["corruption"], entry["severity"]
        alone = evaluate(net, corrupted(digits, *place), suite="fgsm", threat="linf:0.04")
        for kind, found in shares.items():
            assert entry[f"{kind}_accuracy"] == alone.summary[f"{kind}_accuracy"]
            assert entry["interval95"][kind] == alone.summary["interval95"][kind]
            found[place] = entry[f"{kind}_accuracy"]
        assert torch.equal(load_images(entry["name"], None).head(40).labels, digits.labels)
        own = summary_at(out / entry["folder"])
        assert timeless(own["protocol"]) == timeless(alone.summary["protocol"])
    plain = evaluate(net, digits, suite="fgsm", threat="linf:0.04").summary
    for kind, found in shares.items():
        assert summary[f"{kind}_accuracy"] == plain[f"{kind}_accuracy"]
        assert summary["mean"][f"{kind}_accuracy"] == pytest.approx(sum(found.values()) / 10)
        for name in FEW:
            expected = sum(share for (corruption, _), share in found.items() if corruption == name) / 5
            assert summary["by_corruption"][name][f"{kind}_accuracy"] == pytest.approx(expected)
            assert f"{100 * expected:.1f} %" in err
        for severity in range(1, 6):
            expected = (found["fog", severity] + found["pixelate", severity]) / 2
            assert summary["by_severity"][str(severity)][f"{kind}_accuracy"] == pytest.approx(expected)
    assert (summary["suite"], summary["attacks"], summary["examples"]) == ("corruptions+fgsm", [], 40)
    assert summary["protocol"]["data_hash"] == digits.hash
    assert (out / "sets" / "uncorrupted" / "outcomes.parquet").is_file()
    assert (out / "heatmap.png").read_bytes().startswith(b"\x89PNG")
    table = (out / "table.md").read_text()
    assert table.count("| pixelate |") == 2
    assert f"{100 * shares['robust']['fog', 4]:.1f} %" in table


def test_sets_of_any_name_are_evaluated_without_or_with_images_as_they_are(folder, capsys):
    shifts = " ".join(f"--shift {spec}" for spec in SPECS)
    assert ended(capsys, f"evaluate run --suite shifts {shifts} --examples 30 -q")[:2] == (
        0,
        "run/evaluations/shifts\n",
    )
    summary = summary_at(folder / "run/evaluations/shifts")
    assert [entry["name"] for entry in summary["sets"]] == SPECS
    assert [entry["corruption"] for entry in summary["sets"]] == ["fog", "glass_blur", None]
    for entry in summary["sets"]:
        images = load_images(entry["name"], None).head(30)
        right = (load("run")(images.batch(torch.arange(30)).float() / 255).argmax(1) == images.labels).double().mean()
        assert entry["clean_accuracy"] == pytest.approx(float(right))
    assert summary["clean_accuracy"] is summary["robust_accuracy"] is summary["mean"]["robust_accuracy"] is None
    assert "-- --" not in summary["command"]
    assert shlex.split(summary["command"])[-6:] == [w for spec in SPECS for w in ("--shift", spec)]
    line = f"evaluate run --suite shifts {shifts} --examples 30 --data digits#test --out with"
    assert ended(capsys, line)[0] == 0
    both = summary_at(folder / "with")
    assert timeless(both["sets"]) == timeless(summary["sets"])
    digits = load_images("digits#test", None).head(30)
    expected = evaluate(load("run"), digits, suite="clean", threat="linf:0.04").summary["clean_accuracy"]
    assert both["clean_accuracy"] == expected
    assert "as it is" in (folder / "with/table.md").read_text()


def test_after_a_kill_only_what_was_not_done_is_done(folder, tmp_path):
    specs = [f"digits#test@fog:{severity}" for severity in range(1, 6)]
    line = ["evaluate", "run", "--suite", "shifts+pgd20", "--examples", "128"]
    line += [word for spec in specs for word in ("--shift", spec)]
    whole = inure(*line, "--out", tmp_path / "whole", folder=folder)
    assert whole.code == 0
    out = tmp_path / "killed"

    def done():
        return sorted((out / "sets").glob("*/summary.json"))

    command = Command([*line, "--out", out], folder)
    command.wait_until(lambda: len(done()) >= 2)
    command.kill()
    assert 2 <= len(done()) < 5
    # One that was killed between its summary and the removal of its journal is written once more
    finished = [path for path in done() if not [*path.parent.glob("progress-*")]]
    before = {path: path.stat().st_mtime_ns for path in finished}
    assert before
    assert not (out / "summary.json").exists()
    assert inure(*line, "--out", out, "--resume", folder=folder).code == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert timeless(summary_at(out)) == timeless(summary_at(tmp_path / "whole"))
    refused = inure(*line, "--out", out, "--resume", "--seed", "1", folder=folder)
    assert refused.code == 2
    assert "--resume" in refused.err.splitlines()[-1]


def test_what_was_found_under_other_settings_is_never_mixed_in(folder, tmp_path):
    net, digits = load("run"), load_images("digits", "test").head(20)
    sets = named_sets.find_sets(SPECS, img_size=None, examples=20)
    options = {"suite": "shifts+fgsm", "threat": Linf(epsilon=0.04), "out": tmp_path, "quiet": True}
    first = on_sets(net, digits, sets, seed=0, **options)

    class Killed(Exception):
        pass

    def die():
        raise Killed

    dying = sets[1].__class__(**{**vars(sets[1]), "load": die})
    with pytest.raises(Killed):  # anew, with another seed: only one set gets done
        on_sets(net, digits, [sets[0], dying, sets[2]], seed=1, **options)
    assert timeless(summary_at(tmp_path / "previous")) == timeless(json.loads(json.dumps(first)))
    assert (tmp_path / "previous" / "heatmap.png").is_file()
    assert not (tmp_path / "summary.json").exists()
    second = on_sets(net, digits, sets, seed=1, resume=True, **options)
    assert [summary_at(tmp_path / e["folder"])["seed"] for e in second["sets"]] == [1, 1, 1]


@pytest.mark.usefixtures("few")
def test_the_gate_is_the_mean_over_the_sets(folder, capsys):
    line = "evaluate run --suite corruptions+fgsm --examples 30 --out gate -q"
    assert ended(capsys, line)[0] == 0
    mean = summary_at(folder / "gate")["mean"]["robust_accuracy"]
    assert mean < summary_at(folder / "gate")["robust_accuracy"]
    assert ended(capsys, f"{line} --resume --fail-under {mean!r}")[0] == 0
    code, _, err = ended(capsys, f"{line} --resume --fail-under {mean + 1e-6!r}")
    assert (code, err.splitlines()[-1].split(":")[1]) == (3, " --fail-under")
    clean = "evaluate run --suite corruptions --examples 30 --out clean -q"
    assert ended(capsys, clean)[0] == 0
    mean = summary_at(folder / "clean")["mean"]["clean_accuracy"]
    assert ended(capsys, f"{clean} --resume --fail-under {mean + 1e-6!r}")[0] == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--suite corruptions+quik", "--suite: got corruptions+quik"),
        ("--suite corruption", "try corruptions"),
        ("--suite shifts", "--shift: got nothing"),
        ("--suite quick --shift digits@fog:3", "--suite shifts"),
        ("--suite corruptions --shift digits@fog:3", "--suite shifts"),
        ("--suite shifts --shift digits@fogg:3", "try fog"),
        ("--suite shifts --shift digits@fog:3 --shift digits@fog:3", "every set once"),
        ("--suite shifts --shift imagenet-r:nowhere", "--shift: got imagenet-r:nowhere"),
        ("--suite shifts --shift digits@fog:3 --shift there.parquet", "--shift: got there.parquet"),
        ("--suite corruptions --out run", "--out: got run, a run"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_evaluated(folder, capsys, options, said):
    before = {*folder.rglob("*")}
    code, out, err = ended(capsys, f"evaluate run {options}")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err
    assert {*folder.rglob("*")} == before


def test_a_set_of_another_shape_is_named(folder, tmp_path):
    from processes import write_images

    write_images(tmp_path / "grey.parquet", [0, 1, 2])
    with pytest.raises(ValueError, match=r"--shift: got .*, images of \(1, 9, 9\); allowed \(1, 8, 8\)"):
        on_sets(
            load("run"), None, named_sets.find_sets([str(tmp_path / "grey.parquet")], img_size=9, examples=None),
            suite="shifts", threat=Linf(epsilon=0.1), out=tmp_path / "out", shape=(1, 8, 8), quiet=True,
        )  # fmt: skip


def test_a_set_whose_labels_do_not_fit_the_net_is_named(tmp_path):
    digits = load_images("digits", "test").head(5)
    more = replace(digits, labels=digits.labels + 10, class_names=tuple(map(str, range(20))))
    named = named_sets.NamedSet("more", "more", None, None, lambda: more)
    with pytest.raises(ValueError, match="--shift: got more, labels classes 1. to 1.; allowed 0 to 9"):
        on_sets(load("run"), None, [named], suite="shifts", threat=Linf(epsilon=0.1), out=tmp_path, quiet=True)


def test_a_set_with_several_right_labels_is_refused_by_its_name(tmp_path):
    digits = load_images("digits", "test").head(5)
    several = replace(digits, accepted=torch.ones(5, 10, dtype=torch.bool))
    named = named_sets.NamedSet("imagenet-real:DIR", "imagenet-real:DIR", None, None, lambda: several)
    with pytest.raises(ValueError, match="--shift: got .*which has several"):
        on_sets(load("run"), None, [named], suite="shifts", threat=Linf(epsilon=0.1), out=tmp_path, quiet=True)


def test_images_of_training_are_told_among_the_sets(folder, capsys):
    line = "evaluate run --suite shifts+fgsm --shift digits#train --shift digits#test@fog:1 --examples 10 --out seen"
    code, _, err = ended(capsys, line)
    assert code == 0
    assert "training_images" in err
    assert "raised in 1 of 2 sets" in err
    assert not summary_at(folder / "seen")["verified"]


def test_a_flag_of_several_sets_is_said_once_with_their_number(folder, tmp_path):
    class Dead(torch.nn.Module):
        """No gradient at all."""

        def __init__(self):
            super().__init__()
            self.net = load("run")

        def forward(self, x, mix=None):
            return self.net((x * 255).round() / 255)

    from inure.models import Classifier

    sets = named_sets.find_sets(SPECS[:2], img_size=None, examples=20)
    summary = on_sets(
        Classifier(Dead()), None, sets, suite="shifts+fgsm", threat=Linf(epsilon=0.04), out=tmp_path, quiet=True
    )
    (flag,) = [flag for flag in summary["flags"] if flag["name"] == "zero_gradient"]
    assert flag["detail"].endswith("(digits#test@fog:3; raised in 2 of 2 sets)")
    assert not summary["verified"]


def test_a_corruption_that_undoes_a_normalisation_is_no_flag_of_the_net(folder, tmp_path, monkeypatch):
    from inure.evaluation import run as run_module
    from inure.evaluation.flags import flag

    raised = [flag("missing_normalisation", "accuracy rises"), flag("saturated_logits", "a gap")]
    monkeypatch.setattr(run_module, "probe", lambda *_, **__: list(raised))
    net, digits = load("run"), load_images("digits", "test").head(10)
    sets = named_sets.find_sets(SPECS[:2], img_size=None, examples=10)
    options = {"suite": "shifts+fgsm", "threat": Linf(epsilon=0.04), "quiet": True}
    apart = on_sets(net, None, sets, out=tmp_path / "apart", **options)
    assert [found["name"] for found in apart["flags"]] == ["saturated_logits"]
    with_clean = on_sets(net, digits, sets, out=tmp_path / "with", **options)
    assert {found["name"] for found in with_clean["flags"]} == {"missing_normalisation", "saturated_logits"}


def test_only_the_first_process_writes_what_all_agree_on(folder, tmp_path):
    sets = named_sets.find_sets(SPECS[:1], img_size=None, examples=10)
    on_sets(load("run"), None, sets, suite="shifts", threat=Linf(epsilon=0.04), out=tmp_path, quiet=True)
    (tmp_path / "summary.json").unlink()
    on_sets(
        load("run"), None, sets, suite="shifts", threat=Linf(epsilon=0.04), out=tmp_path, quiet=True,
        workers=Workers(1, 2, lambda: None), resume=True,
    )  # fmt: skip
    assert not (tmp_path / "summary.json").exists()


def test_sets_are_evaluated_in_the_mode_that_is_asked_for(folder, tmp_path):
    changes = ["model.name=vit_digits", "epochs=1", "model.adapters=cls_token", "data.examples=200"]
    changes += ["method.attack.steps=1", "evaluation.validation_steps=1"]
    train(load_recipe("digits/soup", changes), tmp_path / "soup", quiet=True)
    out, summary = evaluate_target(
        Request(str(tmp_path / "soup"), suite="shifts", shift=SPECS[:1], examples=40, mode="clean", quiet=True)
    )
    assert out.name == "shifts-clean"
    images = load_images(SPECS[0], None).head(40)
    logits = load(tmp_path / "soup")(images.batch(torch.arange(40)).float() / 255, mix="clean")
    assert summary["sets"][0]["clean_accuracy"] == pytest.approx(
        float((logits.argmax(1) == images.labels).double().mean())
    )


@pytest.mark.parametrize("suite", [*SUITES])
def test_every_suite_of_attacks_can_be_run_on_sets(suite):
    assert split_suite(suite) == (None, suite)
    assert split_suite(f"corruptions+{suite}") == ("corruptions", suite)
    assert split_suite("shifts") == ("shifts", "clean")


def test_the_suites_are_listed(capsys):
    code, out, _ = ended(capsys, "list suites")
    assert code == 0
    lines = dict(line.split("\t") for line in out.splitlines())
    assert "corruptions+SUITE" in lines["corruptions"]
    assert "shifts+SUITE" in lines["shifts"]


def test_compare_says_where_the_outcomes_of_sets_are(folder, capsys, tmp_path):
    sets = named_sets.find_sets(SPECS[:1], img_size=None, examples=10)
    images = load_images("digits", "test").head(10)
    on_sets(load("run"), images, sets, suite="shifts", threat=Linf(epsilon=0.04), out=tmp_path, quiet=True)
    code, _, err = ended(capsys, f"compare {tmp_path} {tmp_path}")
    assert code == 2
    assert f"{tmp_path}/sets/" in err
    assert ended(capsys, f"compare {tmp_path}/sets/uncorrupted {tmp_path}/sets/uncorrupted")[0] == 0
