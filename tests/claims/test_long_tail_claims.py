"""The claims on long tails: their recipes, their rules, the weighting by class, and a run from training to verdict."""

import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from inure.claims.claim import Interval
from inure.claims.lab import SCALES
from inure.claims.long_tail import NAMES, Found, Groups, _differences, net_of, over
from inure.commands import _run
from inure.recipe.recipe import load_recipe


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", NAMES)
def test_every_net_is_a_long_tailed_recipe_that_counts(scale, name):
    net = net_of(name, scale)
    recipe = load_recipe(net.recipe, net.overrides)
    assert recipe.data.long_tail is not None
    assert recipe.balance.counter is not None
    assert recipe.data.long_tail.ratio == 50


@pytest.mark.parametrize("scale", SCALES)
def test_reat_differs_from_its_control_in_inner_weights_and_penalty_alone(scale):
    reat, control = (
        load_recipe(net.recipe, net.overrides) for net in (net_of("reat", scale), net_of("at_bsl_80", scale))
    )
    differing = {key for key in type(reat).model_fields if getattr(reat, key) != getattr(control, key)}
    assert differing - {"about"} == {"balance", "penalties"}
    assert reat.balance.train == control.balance.train


@pytest.mark.parametrize(
    ("low", "high", "by_seed", "answer"),
    [
        (0.001, 0.08, (0.02, 0.06), "reproduced"),
        (0.001, 0.08, (-0.01, 0.09), "not decidable at this scale"),
        (-0.02, 0.019, (-0.01, 0.01), "not reproduced"),
        (-0.09, -0.01, (-0.04, -0.06), "not reproduced"),
        (-0.04, 0.05, (0.01, 0.01), "not decidable at this scale"),
    ],
)
def test_a_gain_must_be_shown_in_every_seed_and_its_absence_too(low, high, by_seed, answer):
    assert over(Interval((low + high) / 2, low, high), by_seed) == answer


def evaluation(folder, labels, clean, robust):
    """A file of outcomes with one attack."""
    rows = [(i, y, "clean", c) for i, (y, c) in enumerate(zip(labels, clean, strict=True))]
    rows += [(i, y, "pgd", r) for i, (y, c, r) in enumerate(zip(labels, clean, robust, strict=True)) if c]
    columns = dict(zip(("index", "label", "attack", "robust"), zip(*rows, strict=True), strict=True))
    filler = {
        "clean_prediction": [0] * len(rows),
        "adversarial_prediction": [0] * len(rows),
        "distance": [0.0] * len(rows),
    }
    folder.mkdir()
    pyarrow.parquet.write_table(pa.table(columns | filler), folder / "outcomes.parquet")
    return Found(folder, Groups(0, 0, 0, 0), [])


def test_the_mean_of_the_differences_is_that_of_the_balanced_accuracies(tmp_path):
    draw = torch.Generator().manual_seed(0)
    labels = [0] * 30 + [1] * 8 + [3] * 2
    nets = []
    for number in range(4):
        clean = (torch.rand(40, generator=draw) > 0.2).tolist()
        robust = [c and bool(r > 0.5) for c, r in zip(clean, torch.rand(40, generator=draw), strict=True)]
        nets.append((evaluation(tmp_path / str(number), labels, clean, robust), clean, robust))

    def balanced(right):
        sizes = Counter(labels)
        return sum(sum(r for r, y in zip(right, labels, strict=True) if y == k) / n for k, n in sizes.items()) / 3

    for quantity, place in (("clean", 1), ("robust", 2)):
        expected = [balanced(nets[i][place]) - balanced(nets[i + 2][place]) for i in (0, 1)]
        found = _differences([net[0] for net in nets[:2]], [net[0] for net in nets[2:]], quantity)
        assert found.mean().item() == pytest.approx(sum(expected) / 2)


def test_both_claims_run_from_training_to_verdict(tmp_path):
    tiny = ["epochs=1", "method.attack.steps=1", "evaluation.validation_steps=1"]
    command = ["reproduce", "long_tail", *tiny, "--seeds", "1", "--out", str(tmp_path), "--quiet"]
    assert _run(command) == 0
    for claim, nets in (("balanced_softmax", 2), ("reat", 3)):
        folder = tmp_path / "smoke/long_tail" / claim
        verdict = json.loads((folder / "verdict.json").read_text())
        assert len(verdict["rows"]) == nets
        assert verdict["rows"][0][-1] == "-"
        assert (folder / "figure.png").stat().st_size > 1000
    assert {path.name for path in (tmp_path / "smoke/nets").iterdir()} == {*NAMES}
