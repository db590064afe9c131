"""The claims on memorization: their nets are recipes, their conditions decide as stated, they run to a verdict."""

import json

import pytest

from inure.claims.claim import UNDECIDED, Interval
from inure.claims.lab import SCALES, Lab
from inure.claims.memorization import _NETS, _NO_NOISE, _NOISE, _PLAIN, RANDOM_LABELS, Cure, Found
from inure.commands import _run
from inure.recipe.recipe import load_recipe

YES, NO = "reproduced", "not reproduced"


@pytest.mark.parametrize("scale", SCALES)
def test_every_net_is_a_recipe(scale):
    net = _NETS[scale]
    noisy = load_recipe(net.recipe, [*net.overrides, *_NOISE])
    assert (noisy.data.label_noise.rate, noisy.method.kind, noisy.penalties[0].weight) == (0.2, "pgd_at", 30)
    true = load_recipe(net.recipe, [*net.overrides, *_NO_NOISE, *_PLAIN])
    assert (true.data.label_noise, true.penalties) == (None, [])
    if scale != "smoke":
        assert (noisy.penalties[0].start, noisy.penalties[0].end) == (89 / 200, 149 / 200), "the recipe's own"
    pair = [load_recipe(nets[scale].recipe, [*nets[scale].overrides]) for nets in RANDOM_LABELS.values()]
    assert [recipe.method.kind for recipe in pair] == ["pgd_at", "trades"]
    assert pair[0].method.attack.threat == pair[1].method.attack.threat
    for recipe in pair:
        assert (recipe.data.label_noise.rate, recipe.optimizer.weight_decay, recipe.augment) == (1, 0, None)
        assert recipe.checkpoint.select == "last"
    assert pair[0].model_copy(update={"method": pair[1].method, "about": pair[1].about}) == pair[1]


def span(value: float, half: float = 0.02) -> Interval:
    return Interval(value, value - half, value + half)


@pytest.mark.parametrize(
    ("found", "answers"),
    [
        ([(0.12, 0.02, 0.1, 0.03)], [YES, YES, YES, YES, YES]),
        ([(0.12, 0.04, 0.1, 0.03)], [YES, NO, YES, YES, YES]),
        ([(0.12, 0.02, 0.04, -0.01)], [YES, YES, YES, NO, NO]),
        ([(0.12, 0.02, 0.1, 0), (0.02, 0.0, 0.01, 0.01)], [UNDECIDED, YES, UNDECIDED, UNDECIDED, YES]),
    ],
)
def test_the_conditions_under_noise_decide_as_stated(found, answers):
    seeds = [Found(*map(span, one)) for one in found]
    assert [answer for _, answer in Cure(noise=True)._conditions(seeds)] == answers


def test_the_control_asks_that_nothing_is_lost():
    for final, answer in ((0.01, YES), (-0.02, YES), (-0.04, NO)):
        seeds = [Found(*map(span, (0.0, 0.01, final, 0)))]
        assert Cure(noise=False, control=True)._conditions(seeds)[1][1] == answer


@pytest.mark.parametrize(
    ("found", "answers"),
    [
        ((0.07, 0.02, 0.03, -0.01), [YES, YES, YES]),  # a gain of 3 points is enough where labels are true
        ((0.03, 0.02, 0.03, -0.01), [NO, YES, YES]),
        ((0.07, 0.04, 0.01, -0.01), [YES, NO, UNDECIDED]),
        ((0.07, 0.02, -0.03, -0.01), [YES, YES, NO]),
    ],
)
def test_a_cure_with_true_labels_needs_a_gap_that_it_closes_and_a_gain(found, answers):
    assert [answer for _, answer in Cure(noise=False)._conditions([Found(*map(span, found))])] == answers


TINY = [
    "epochs=1", "data.examples=120", "data.validation=20", "evaluation.validation_examples=20", "method.attack.steps=1",
]  # fmt: skip


@pytest.mark.parametrize("claim", ["noise", "control", "cure", "random_labels"])
def test_a_claim_runs_from_training_to_verdict(tmp_path, claim):
    line = ["reproduce", f"memorization/{claim}", *TINY, "--seeds", "1", "--examples", "40", "--out", str(tmp_path)]
    assert _run([*line, "--quiet"]) == 0
    folder = tmp_path / "smoke" / "memorization" / claim
    verdict = json.loads((folder / "verdict.json").read_text())
    if claim in ("noise", "cure"):
        assert verdict["answer"] == UNDECIDED
        assert verdict["reason"] == "there is no robust overfitting to cure"
    assert (folder / "figure.png").stat().st_size > 1000
    assert len(verdict["rows"]) == 1
    nets = sorted(path.name for path in (tmp_path / "smoke" / "nets").iterdir())
    assert len(nets) == 2
    if claim == "random_labels":
        outcomes = tmp_path / "smoke/nets/random_labels_trades/seed0/evaluations/training-of-40/summary.json"
        assert json.loads(outcomes.read_text())["examples"] == 40


def test_what_is_evaluated_at_the_end_is_the_last_checkpoint(tmp_path):
    lab = Lab(tmp_path, "smoke", (0,), (*TINY[1:], "epochs=2", "checkpoint.every=1"), 20, quiet=True)
    ends = Cure(noise=True)._ends(lab, "PGD-AT", 0)
    hashes = [json.loads((folder / "summary.json").read_text())["protocol"]["weights_hash"] for folder in ends]
    assert ends.best != ends.last
    run = tmp_path / "nets" / "plain_noisy" / "seed0"
    same = (run / "checkpoints/best.safetensors").read_bytes() == (run / "checkpoints/last.safetensors").read_bytes()
    assert (hashes[0] == hashes[1]) == same
