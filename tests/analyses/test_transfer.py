"""Transfer between modes: against evaluations of each mode, and an attack on a random mode by its closed form."""

import json

import pytest
import torch
from torch import nn

from inure.analyses import Subject, Transfer
from inure.analyses.transfer import EVERY
from inure.attacks import PGD
from inure.commands import _run
from inure.data import ImageSet
from inure.display.console import Bars
from inure.evaluation import evaluate
from inure.evaluation.examples import Examples
from inure.losses import cross_entropy
from inure.models import Classifier
from inure.models.adapt import adapt
from inure.models.domains import in_domain
from inure.recipe.recipe import load_recipe
from inure.threat import Linf
from inure.training.train import train


def two_modes() -> Classifier:
    """Mode ``a`` looks at the first two pixels, mode ``b`` at the last two."""
    layer = nn.Linear(4, 2, bias=False)
    net = adapt(nn.Sequential(nn.Flatten(), layer), "all", ("a", "b"))
    stack = next(p for p in net.parameters())
    with torch.no_grad():
        stack[0] = torch.tensor([[4.0, 0, 0, 0], [0, 4.0, 0, 0]])
        stack[1] = torch.tensor([[0, 0, 4.0, 0], [0, 0, 0, 4.0]])
    return net.eval()


def images(count: int = 24) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(90, 160, (count, 1, 2, 2), generator=generator, dtype=torch.uint8)
    pixels[:, 0, :, 0] += 12  # class 0 in both halves, narrowly
    return ImageSet.from_arrays(pixels, torch.zeros(count, dtype=torch.int64), ("0", "1"))


def subject(epsilon: float) -> Subject:
    return Subject(two_modes(), images(), Linf(epsilon=epsilon), 0, 10, torch.device("cpu"), Bars(quiet=True))


def test_what_attacks_one_mode_does_nothing_but_noise_to_a_mode_of_other_pixels():
    found = Transfer().run(subject(0.2)).numbers["accuracy"]
    clean = found["no attack"]
    assert 0 < clean["a"] <= 1
    for row, column in (("a", "b"), ("b", "a")):
        assert found[row][row] == 0
        assert abs(found[row][column] - clean[column]) < 0.25  # the random start moves all pixels
    assert found[EVERY]["a"] == found["a"]["a"]
    assert found[EVERY]["b"] == found["b"]["b"]
    assert found[EVERY]["random"] == pytest.approx((found["a"]["a"] + found["b"]["b"]) / 2)


def test_the_diagonal_is_what_an_evaluation_of_that_mode_finds():
    about = subject(0.03)
    found = Transfer().run(about).numbers
    for mode in about.classifier.domains:
        alone = evaluate(about.classifier, about.images, suite="pgd20", threat=about.threat, mode=mode)
        # An evaluation does not attack what is wrong already; an attack may put it right
        assert found["accuracy"][mode][mode] >= alone.summary["robust_accuracy"] - 1e-9
        assert found["accuracy"]["no attack"][mode] == alone.summary["clean_accuracy"]


def test_the_attack_on_a_random_mode_climbs_the_mean_of_the_losses():
    about = subject(0.05)
    x = Examples.of(about.images, None).images(torch.arange(24), torch.device("cpu"))
    y = about.images.labels
    found = Transfer(modes=["a", "b"]).run(about)
    both = sum(cross_entropy(in_domain(about.classifier, mode)(x), y).mean() for mode in ("a", "b"))
    attack = PGD(threat=about.threat, steps=20, step_size=0.0125, keep="worst")
    torch.manual_seed(0)
    alone = attack(in_domain(about.classifier, "a"), x, y)
    reached = sum(cross_entropy(in_domain(about.classifier, mode)(alone), y).mean() for mode in ("a", "b"))
    assert reached > both
    assert found.numbers["accuracy"][EVERY]["random"] <= found.numbers["accuracy"]["a"]["random"]


def test_random_is_the_mean_and_all_counts_what_every_mode_gets_right():
    found = Transfer(modes="a b a=0.5,b=0.5", suite="quick").run(subject(0.05))
    assert found.columns == ["attacked in", "a", "b", "a=0.5,b=0.5", "random", "all"]
    for row in found.numbers["accuracy"].values():
        assert row["random"] == pytest.approx((row["a"] + row["b"] + row["a=0.5,b=0.5"]) / 3)
        assert row["all"] <= min(row["a"], row["b"], row["a=0.5,b=0.5"])
    assert found.figure.startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    settings = ["epochs=1", "method.attack.steps=1", "evaluation.validation_steps=1", "checkpoint.every=1"]
    return train(load_recipe("digits/soup", settings), tmp_path_factory.mktemp("transfer") / "run", quiet=True)


def test_the_command_writes_table_figure_and_numbers(run, capsys):
    assert _run(["analyze", "transfer", str(run), "modes=clean robust", "suite=fgsm", "--examples", "20"]) == 0
    out, err = capsys.readouterr()
    folder = run / "analyses" / "transfer"
    assert out == f"{folder}\n"
    assert "judged in the column's" in " ".join(err.split())
    numbers = json.loads((folder / "analysis.json").read_text())
    assert numbers["protocol"]["examples"] == numbers["examples"] == 20
    assert {*numbers["accuracy"]} == {"no attack", "clean", "robust", EVERY}
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert len((folder / "table.md").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["transfr", "RUN"], "NAME: got transfr; allowed transfer | ntk; try transfer"),
        (["transfer", "RUN", "modes=clean robst"], "--mode: got robst; allowed clean | robust; try robust"),
        (["transfer", "RUN", "modes=clean"], "modes: got ['clean']"),
        (["transfer", "RUN", "suite=clean"], "suite: got clean; allowed a suite that attacks; try pgd20"),
        (["transfer", "RUN", "suite=apgd"], "suite: got apgd; allowed a suite of FGSM and PGD alone; try pgd20"),
        (["transfer", "RUN", "suite=pgd21"], "suite: got pgd21"),
        (["transfer", "RUN", "steps=3"], "steps: got an unknown field"),
        (["transfer", "RUN", "--examples", "0"], "--examples: got 0"),
        (["transfer", "nowhere"], "TARGET: got nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(run, capsys, arguments, line):
    assert _run(["analyze", *(str(run) if word == "RUN" else word for word in arguments)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"inure: {line}")
    assert err.count("\n") == 1
