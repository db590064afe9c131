"""A small robust CIFAR-10 net against what the reference AutoAttack found; needs ``../shared`` beside the checkout."""

import json
from pathlib import Path

import pytest
import torch
from digit_nets import by_example

from inure.data import load as load_images
from inure.evaluation import evaluate
from inure.load import load

SHARED = Path(__file__).resolve().parents[3] / "shared"
ORACLE, IMAGES = SHARED / "oracle", SHARED / "data" / "cifar10-test.parquet"
pytestmark = pytest.mark.skipif(not (ORACLE.is_dir() and IMAGES.is_file()), reason="no ../shared")


@pytest.fixture(scope="module")
def verdicts() -> dict:
    return json.loads((ORACLE / "verdicts.json").read_text())


@pytest.fixture(scope="module")
def case():
    """The net and the 128 images."""
    return load(f"{ORACLE / 'net.py'}:build", ORACLE / "weights.pt"), load_images(str(IMAGES), "test").head(128)


def test_clean_predictions_are_right_where_the_reference_says(case, verdicts):
    found = evaluate(*case, suite="clean", threat="linf:8/255")
    assert found.summary["clean_accuracy"] == 63 / 128
    assert found.robust.int().tolist() == verdicts["clean_correct"]


@pytest.mark.slow
def test_pgd_with_100_steps_lies_between_the_cascade_and_a_few_above_apgd(case, verdicts):
    found = evaluate(*case, suite="pgd100", threat="linf:8/255")
    alone = {name: sum(result["robust"]) for name, result in verdicts["alone"].items()}
    assert 29 <= found.robust.sum() <= alone["apgd-ce"] + 3
    # Who withstands the cascade withstands one of weaker attacks
    cascade = torch.tensor(verdicts["cascade"]["robust"]).bool()
    assert (found.robust & cascade).sum() >= 28
    (attack,) = found.summary["attacks"]
    assert (attack["forwards"], attack["backwards"]) == (63 * 102, 63 * 100)
    assert len(by_example(found.outcomes)) == 128 + 63
