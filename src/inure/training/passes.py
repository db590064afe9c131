"""How many passes through the net a training step makes, counted; and what the phases of a regime save."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import memory
from ..machine.one_device import OneDevice
from ..models import Model, build
from ..recipe.recipe import Recipe
from ..recipe.regime import END
from ..types import Batch
from .step import joints_of, step_of

_IMAGES, _CLASSES, _SHAPE = 20, 4, (1, 8, 8)  # images of which a fifth is a whole number


def passes(recipe: Recipe, method: Any = None) -> dict[str, float]:
    """Passes of one training step at full strength, in units of one batch, counted on a net of two layers.

    A forward with gradients switched on has its backward: a full one if the parameters want gradients, one to the
    images if they are frozen. The second backward of a penalty that differentiates twice is not counted.

    Args:
        recipe: What trains.
        method: In place of the recipe's, as in a phase of its regime.
    """
    counts = {"forwards": 0, "input_backwards": 0, "full_backwards": 0}

    def count(net: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        counts["forwards"] += len(arguments[0])
        if torch.is_grad_enabled():
            full = any(p.requires_grad for p in net.parameters())
            counts["full_backwards" if full else "input_backwards"] += len(arguments[0])

    method = recipe.method if method is None else method
    attack: Any = getattr(method, "attack", None)
    if hasattr(attack, "of_any_shape"):  # the net that counts takes images of its own shape
        method = method.model_copy(update={"attack": attack.of_any_shape()})
    with torch.random.fork_rng(devices=[]):
        net = build(Model(name="cnn_tiny"), num_classes=_CLASSES, shape=_SHAPE)
        net.register_forward_pre_hook(count)
        fabric = OneDevice(torch.device("cpu"))
        model, optimizer = fabric.setup(net, recipe.optimizer.build(net))
        y = torch.arange(_IMAGES) % _CLASSES
        remembered = memory.begin(recipe, memory.facts_of(y, _CLASSES, _SHAPE, _IMAGES, "cpu"))
        batch = Batch(torch.rand(_IMAGES, *_SHAPE), y, torch.arange(_IMAGES), END, remembered)
        joints = replace(joints_of(recipe, method), crafting=None)  # tricks want a net that they were prepared for
        step_of(method)(fabric, model, optimizer, batch, method=method, joints=joints)
    return {name: value / _IMAGES for name, value in counts.items()}


def saved(recipe: Recipe, steps: Mapping[str, int]) -> dict[str, float]:
    """What the phases of a regime saved.

    Args:
        recipe: Of the run.
        steps: Steps made in each phase, by its number.

    Returns:
        ``pairs``: forward-backward pairs of one batch that were made, counted as forwards; ``without``: those of as
        many steps of the method alone; ``saved``: the share.
    """
    regime = recipe.regime
    costs = {number: passes(recipe, regime.method(recipe.method, int(number)))["forwards"] for number in steps}
    made = sum(costs[number] * count for number, count in steps.items())
    without = passes(recipe)["forwards"] * sum(steps.values())
    return {"pairs": made, "without": without, "saved": 1 - made / without if without else 0.0}
