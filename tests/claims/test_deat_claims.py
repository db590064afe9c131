"""The claims of DEAT: their cells exist at every scale, the correlations are right, and they run to a verdict."""

import json
import math
import random

import pytest

from inure.claims.claim import Interval
from inure.claims.deat import DEAT_CLAIMS, Correlations, Point, Ratio, correlations_of, points_of, rises
from inure.claims.lab import SCALES, Lab
from inure.claims.question import Condition, Question, pairs_of, part_of
from inure.study import load_study
from inure.study.jobs import jobs_of

QUESTIONS = [claim for claim in DEAT_CLAIMS if isinstance(claim.run, Question)]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("claim", QUESTIONS, ids=lambda claim: claim.name)
def test_every_condition_compares_cells_of_the_grid_at_each_batch(claim, scale):
    question = claim.run
    study = part_of(load_study(question.study).at(scale), question.only)
    for condition in question.conditions:
        pairs = list(pairs_of(study, condition))
        labels = [label for label, _, _ in pairs]
        assert len({*labels}) == len(labels)
        assert {label.rpartition(", ")[2] for label in labels} == {"32", "128", "512"}
        assert all(mine != other for _, mine, other in pairs)


@pytest.mark.parametrize("scale", SCALES)
def test_a_pair_that_must_match_has_equal_long_run_steps(scale, tmp_path):
    study = load_study("deat_grid").at(scale)
    recipes = {job.name: job.recipe for job in jobs_of(study, tmp_path)}
    (condition,) = next(claim for claim in QUESTIONS if claim.name == "deat/rate").run.conditions
    for _, mine, other in pairs_of(study, condition):
        ours, theirs = (recipes[name].optimizer for name in (mine, other))
        assert ours.lr * ours.long_run_step == pytest.approx(theirs.lr * theirs.long_run_step, rel=1e-5)
        assert ours.lr / theirs.lr == pytest.approx(math.sqrt(5), rel=1e-5)


@pytest.mark.parametrize("scale", SCALES)
def test_coupled_decay_is_all_that_a_coupled_level_changes_and_no_claim_takes_it(scale, tmp_path):
    study = load_study("deat_grid").at(scale)
    recipes = {job.name: job.recipe for job in jobs_of(study, tmp_path)}
    coupled = [name for name in recipes if name.startswith("coupled ")]
    assert len(coupled) == 12
    for name in coupled:
        usual = recipes[name.removeprefix("coupled ")]
        settings = usual.optimizer.model_copy(update={"decoupled": False})
        assert recipes[name].model_copy(update={"about": usual.about}) == usual.model_copy(
            update={"optimizer": settings}
        )
    for claim in DEAT_CLAIMS:
        assert [*part_of(study, claim.run.only).axes["optimizer"]] == ["SGD", "SGD-m", "EMA", "DEAT"]


def test_a_match_needs_both_nets_and_the_margin():
    condition = Condition({"a": "x"}, {"a": "y"}, "match within", 0.05)
    assert condition.answer([Interval(0.0, -0.04, 0.04)]) == "reproduced"
    assert condition.answer([Interval(0.1, 0.06, 0.14)]) == "not reproduced"
    assert condition.answer([Interval(0.0, -0.06, 0.06)]) == "not decidable at this scale"
    assert condition.must_learn("mine", "other") == ("mine", "other")
    assert condition.text() == "x minus y: match within 5"
    assert Condition({"a": "x"}, {"a": "y"}).must_learn("mine", "other") == ("mine",)
    assert Condition({"a": "x"}, {"a": "y"}, "stay below").must_learn("mine", "other") == ("other",)


def test_correlations_are_those_of_their_definitions():
    dice = random.Random(0)
    x = [dice.random() for _ in range(9)]
    y = [a**3 + 0.3 * dice.random() for a in x]
    found = Correlations.of(x, y)

    def pearson(a, b):
        mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
        product = sum((p - mean_a) * (q - mean_b) for p, q in zip(a, b, strict=True))
        return product / math.sqrt(sum((p - mean_a) ** 2 for p in a) * sum((q - mean_b) ** 2 for q in b))

    ranks = [[sorted(values).index(v) for v in values] for values in (x, y)]
    signs = [math.copysign(1, (x[i] - x[j]) * (y[i] - y[j])) for i in range(9) for j in range(i)]
    assert found[:3] == pytest.approx((pearson(x, y), pearson(*ranks), sum(signs) / len(signs)))
    assert Correlations.of(x, [0.1] * 9) == (0, 0, 0, 1)


def test_the_effective_ratio_orders_what_the_nominal_one_does_not():
    # Robust accuracy as a function of the effective ratio alone
    gains = {"SGD": 1.0, "SGD-m": 10.0, "DEAT": 1 / math.sqrt(5)}
    points = [
        Point(name, batch, lr / batch, gain * lr / batch, math.log(1 + gain * lr / batch))
        for name, gain in gains.items()
        for batch in (32, 128)
        for lr in (0.1, 0.3)
    ]
    found = correlations_of(points)
    assert found["all: effective lr / batch"].spearman == pytest.approx(1)
    assert found["all: lr / batch"].spearman < 0.9
    assert all(found[f"{name}: lr / batch"].kendall == pytest.approx(1) for name in gains)


def test_a_correlation_is_decided_by_every_seed():
    up, weak, down = (Correlations(s, s, s, p) for s, p in ((0.9, 0.01), (0.5, 0.2), (-0.5, 0.2)))
    assert rises([up, up]) == "reproduced"
    assert rises([up, weak]) == "not decidable at this scale"
    assert rises([down, down]) == "not reproduced"
    assert rises([]) == "not decidable at this scale"


TINY = ("epochs=1", "data.examples=100", "data.validation=20", "evaluation.validation_examples=20")


def test_the_claims_run_from_training_to_verdict(tmp_path):
    part = {"optimizer": ("SGD", "DEAT"), "batch": ("512",)}
    lab = Lab(tmp_path, "smoke", seeds=(0,), overrides=TINY, quiet=True)
    verdict = Ratio(part)(lab)
    assert verdict.answer in ("reproduced", "not reproduced", "not decidable at this scale")
    assert verdict.figure.startswith(b"\x89PNG")
    assert [row[0] for row in verdict.rows] == [
        "all: lr / batch", "all: effective lr / batch", "SGD: lr / batch", "SGD-m: lr / batch", "DEAT: lr / batch",
    ]  # fmt: skip
    numbers = json.loads(json.dumps(verdict.numbers))
    points = {(p["optimizer"], round(p["nominal"] * 512, 3)): p["effective"] * 512 for p in numbers["points"]["0"]}
    assert points["SGD", 0.3] == pytest.approx(0.3)
    assert points["SGD-m", 0.3] == pytest.approx(3)
    assert points["DEAT", 0.671] == pytest.approx(0.3, rel=1e-4)
    # Another claim finds the same runs
    (condition,) = next(claim for claim in QUESTIONS if claim.name == "deat/rate").run.conditions
    changed = {path: path.stat().st_mtime for path in tmp_path.rglob("weights.safetensors")}
    other = Question("deat_grid", (condition,), part)(lab)
    assert other.answer == "not decidable at this scale"
    assert "is at chance" in other.reason
    assert changed == {path: path.stat().st_mtime for path in tmp_path.rglob("weights.safetensors")}


def test_a_cell_that_failed_counts_as_wrong_everywhere(tmp_path):
    jobs = {(job.name, job.seed): job for job in jobs_of(load_study("deat_grid").at("smoke"), tmp_path)}
    for (_, seed), job in jobs.items():
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        job.finish({"failure": "not finite at step 3: loss=nan"} if seed else {"failure": "as well"})
    points = points_of(jobs, 1)
    assert len(points) == 36
    assert {point.robust for point in points} == {0.0}
    assert {point.batch for point in points} == {32, 128, 512}
