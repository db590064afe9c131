"""What the verbs load: a run of a net of ours wants torch and nothing of its size beside it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inure.recipe.recipe import load_recipe
from inure.training.train import train
from libraries_checks import LARGE, loaded_by

TINY = ["model.name=cnn_tiny", "epochs=1", "evaluation.validation_steps=1", "evaluation.validation_examples=16"]
CLEAN, AGAIN = (f"['evaluate', 'run', '--suite', 'clean', '--examples', '8', '--out', '{out}', '-q']" for out in "ab")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One with a run, an image, and two evaluations, which load torch alone."""
    folder = tmp_path_factory.mktemp("start")
    train(load_recipe("digits/standard", TINY), folder / "run", quiet=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "digit.png")
    script = f"from inure import commands\nassert commands._run({CLEAN}) == 0\nassert commands._run({AGAIN}) == 0"
    # Where pandas is installed, pyarrow loads it to make a column of a list
    assert {*loaded_by(script, *LARGE, "torch._dynamo", folder=folder)} - {"pandas"} == {"torch"}
    return folder


def test_a_prediction_loads_torch_alone(folder):
    script = "from inure import commands\nassert commands._run(['predict', 'run', 'digit.png']) == 0"
    assert loaded_by(script, *LARGE, "torch._dynamo", "pyarrow", folder=folder) == ["torch"]


def test_training_loads_neither_fabric_nor_the_compiler(folder):
    words = ["train", "digits/pgd_at", *TINY, "method.attack.steps=1", "--out", "trained", "-q"]
    script = f"from inure import commands\nassert commands._run({words}) == 0"
    assert loaded_by(script, *LARGE, "torch._dynamo", folder=folder) == ["torch"]


def test_results_are_compared_and_reported_without_torch(folder):
    script = (
        "from inure import commands\n"
        "assert commands._run(['compare', 'a', 'b']) == 0\n"
        "assert commands._run(['report', 'run', '--out', 'report.html']) == 0"
    )
    assert {*loaded_by(script, *LARGE, folder=folder)} - {"pandas"} == {"matplotlib"}
