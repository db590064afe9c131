"""Nets with domains that differ, and run directories as training leaves them, without training."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from inure.models import Classifier, Model, build
from inure.models.adapters.stacks import adapter_names
from inure.recipe.recipe import Recipe
from inure.runs.checkpoints import write_weights
from inure.runs.run import Run


def moved(net: Classifier, scale: float = 0.3) -> Classifier:
    """Every number that exists once per domain is moved; variances only up."""
    names = adapter_names(net)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name in names and tensor.is_floating_point():
                draw = torch.rand if "variances" in name else torch.randn
                tensor += scale * draw(tensor.shape, dtype=tensor.dtype)
    return net


def with_statistics(net: nn.Module, x: torch.Tensor) -> nn.Module:
    """``net`` in eval mode, with BatchNorm statistics as after a few batches."""
    with torch.no_grad():
        net.train()(x)
    return net.eval()


def run_of(path: Path, model: Model, shape: tuple[int, int, int] = (1, 8, 8), **recipe: Any) -> Path:
    """A finished run of ``model``, whose domains differ, for images of ``shape`` and 10 classes."""
    if model.adapters is not None:
        recipe = {"method": {"kind": "co_training"}, **recipe}
    run = Run.create(path, Recipe(model=model, **recipe), resume=False, command=["inure"])
    net = build(model, num_classes=10, shape=shape)
    with_statistics(net, torch.rand(4, *shape))
    write_weights(run.weights, moved(net, 0.1) if net.domains else net)
    run.write_info(num_classes=10, input_shape=[*shape], status="finished", data={"hash": "none"})
    return path
