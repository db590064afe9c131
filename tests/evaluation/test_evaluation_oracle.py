"""A small robust CIFAR-10 net against what the reference AutoAttack found on it (see ``oracle/README.md``)."""

import json
from pathlib import Path

import pytest
import torch
from digit_nets import Limited, by_example

from inure.data import load as load_images
from inure.evaluation import evaluate
from inure.runs.load import load

ORACLE = Path(__file__).parent / "oracle"
VERDICTS = json.loads((ORACLE / "verdicts.json").read_text())
CLEAN, ROBUST = (torch.tensor(part).bool() for part in (VERDICTS["clean_correct"], VERDICTS["cascade"]["robust"]))


@pytest.fixture(scope="module")
def case():
    """The net and the 128 images."""
    images = load_images(str(ORACLE / "images.parquet"), "test")
    return load(f"{ORACLE / 'net.py'}:build", ORACLE / "weights.pt"), images


def attacked(case, suite: str, rows: torch.Tensor | None = None):
    net, images = case
    return evaluate(net, images if rows is None else images.subset(rows), suite=suite, threat="linf:8/255")


def test_clean_predictions_are_right_where_the_reference_says(case):
    assert torch.equal(attacked(case, "clean").robust, CLEAN)


def test_what_falls_to_the_reference_falls_to_the_cascade(case):
    # All of them, and those that stand at 6,800 forwards each, are in the slow test below
    alone = torch.tensor(VERDICTS["alone"]["apgd-ce"]["robust"]).bool()
    soon, late = (rows.nonzero().flatten() for rows in (CLEAN & ~alone, CLEAN & alone & ~ROBUST))
    # Batches of eight, where a usual one is filled up to 32: the few that are left take a quarter of the time
    case = Limited(case[0], 8, torch.OutOfMemoryError()), case[1]
    found = attacked(case, "autoattack", torch.cat([soon[:12], late[:2], (~CLEAN).nonzero().flatten()[:4]]))
    assert [attack["name"] for attack in found.summary["attacks"]] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert found.summary["clean_accuracy"] == 14 / 18
    assert not found.robust.any()
    assert found.summary["verified"]


@pytest.mark.slow
def test_the_cascade_has_the_reference_s_robust_accuracy_at_fewer_passes(case):
    found = attacked(case, "autoattack")
    theirs = VERDICTS["cascade"]["attacks"]
    assert found.robust.sum() - 29 in (-1, 0)
    assert found.summary["verified"]
    ours = found.summary["attacks"]
    assert sum(a["forwards"] for a in ours) <= 0.88 * sum(a["forwards"] for a in theirs.values())
    assert sum(a["backwards"] for a in ours) <= 0.97 * sum(a["forwards_with_gradient"] for a in theirs.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["apgd_ce", "apgd_t", "fab_t", "square"])
def test_every_attack_alone_leaves_as_many_as_the_reference_s(case, name):
    found = attacked(case, name)
    assert abs(int(found.robust.sum()) - sum(VERDICTS["alone"][name.replace("_", "-")]["robust"])) <= 2


@pytest.mark.slow
def test_pgd_with_100_steps_lies_between_the_cascade_and_a_few_above_apgd(case):
    found = attacked(case, "pgd100")
    assert 29 <= found.robust.sum() <= sum(VERDICTS["alone"]["apgd-ce"]["robust"]) + 3
    # Who withstands the cascade withstands one of weaker attacks
    assert (found.robust & ROBUST).sum() >= 28
    (attack,) = found.summary["attacks"]
    assert (attack["forwards"], attack["backwards"]) == (63 * 102, 63 * 100)
    assert len(by_example(found.outcomes)) == 128 + 63
