"""The shipped recipes of the single-step family: what a step of each costs."""

import pytest

from inure.recipe.recipe import load_recipe
from inure.training.passes import passes

STEP = {"forwards": 2, "input_backwards": 1, "full_backwards": 1}
COSTS = {
    "fgsm": STEP,
    "rs_fgsm": STEP,
    "n_fgsm": STEP,
    "zero_grad": STEP,
    "multi_grad": {"forwards": 4, "input_backwards": 3, "full_backwards": 1},
    # The two forwards of the penalty are parts of the update's graph; its second backward is not counted
    "grad_align": {"forwards": 4, "input_backwards": 1, "full_backwards": 3},
    "free": {"forwards": 4, "input_backwards": 0, "full_backwards": 4},
    "fgsm_pgi": {"forwards": 3, "input_backwards": 1, "full_backwards": 2},
}


@pytest.mark.parametrize(("method", "cost"), COSTS.items(), ids=COSTS)
def test_a_step_makes_so_many_passes_and_no_more(method, cost):
    assert passes(load_recipe(f"digits/{method}")) == cost


def test_the_recipe_of_free_training_costs_eight_steps_a_minibatch():
    assert passes(load_recipe("cifar10/free_preact_resnet18"))["full_backwards"] == 8
