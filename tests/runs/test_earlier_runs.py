"""Runs of the commit before files moved into folders (see ``earlier/README.md``) are loaded and go on."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from inure.data import load as load_images
from inure.evaluation import evaluate
from inure.recipe.recipe import load_recipe
from inure.runs.load import load
from inure.runs.run import Run
from inure.training.train import train

EARLIER = Path(__file__).parent / "earlier"


@pytest.fixture
def stopped(tmp_path) -> Run:
    """A copy of the run, to be continued."""
    return Run(Path(shutil.copytree(EARLIER / "stopped", tmp_path / "stopped")))


def test_its_recipe_is_that_of_today(stopped):
    given = ["model.name=cnn_tiny", "epochs=2", "batch_size=256", "checkpoint.every=1", "averaging.kind=ema"]
    given += ["evaluation.validation_steps=2", "evaluation.validation_examples=32"]
    given += ["method.attack.steps=2", "engine.threads=1"]
    assert stopped.recipe() == load_recipe("digits/pgd_at", given)
    assert stopped.info()["status"] == "stopped"


def test_it_goes_on_from_its_checkpoint_to_the_weights_that_it_was_to_have(stopped):
    train(stopped.recipe(), stopped.path, resume=True, quiet=True)
    assert stopped.info()["status"] == "finished"
    assert stopped.info()["step"] == 12
    ours, theirs = load_file(stopped.weights), load_file(EARLIER / "whole.safetensors")
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        # To the bit where they were made; other processors round otherwise. Untrained they are 1e-3 away, and 2e-4
        # without the average
        assert torch.allclose(ours[name].double(), value.double(), rtol=0, atol=5e-5), name


def test_its_weights_are_judged_as_they_were():
    summary = json.loads((EARLIER / "whole_summary.json").read_text())
    net = load(EARLIER / "stopped", EARLIER / "whole.safetensors")
    found = evaluate(net, load_images("digits", "test").head(40), suite="fgsm", threat=summary["threat"]).summary
    assert found["protocol"]["weights_hash"] == summary["protocol"]["weights_hash"]
    assert found["protocol"]["data_hash"] == summary["protocol"]["data_hash"]
    assert [attack["name"] for attack in found["attacks"]] == [attack["name"] for attack in summary["attacks"]]
    for quantity in ("clean_accuracy", "robust_accuracy"):
        assert found[quantity] == pytest.approx(summary[quantity], abs=1 / 40)
