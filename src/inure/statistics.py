"""BatchNorm statistics: estimated for averaged weights, made equal over processes, kept apart in checkpoints."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from .data import Loader, to_batch
from .recipe import Recipe
from .types import Batch

_BATCHES = 32
"""Crafted batches from which the statistics are estimated."""


def has_statistics(model: nn.Module) -> bool:
    """Whether there is a BatchNorm in the net."""
    return any(isinstance(m, _BatchNorm) for m in model.modules())


def estimate(model: nn.Module, recipe: Recipe, loader: Loader, epoch: int, num_classes: int, seed: int) -> None:
    """Estimate the statistics of ``model`` anew, on images that a training step would see, crafted against it."""
    torch.manual_seed(seed)
    update_bn(_crafted(model, recipe, loader, epoch, num_classes), model)
    model.eval()


def _crafted(model: nn.Module, recipe: Recipe, loader: Loader, epoch: int, num_classes: int) -> Iterator[Tensor]:
    method: Any = recipe.method
    for _, (pixels, labels, rows) in zip(range(_BATCHES), loader.epoch(epoch), strict=False):
        x, y = to_batch(pixels, labels, recipe.augment, num_classes)
        yield method.craft(model, Batch(x, y, rows, 1.0), getattr(method, "attack", None), recipe.balance.attack)


def average_over_processes(fabric: Any, model: nn.Module) -> None:
    """Make the statistics equal in all processes (their mean); each saw its own shard."""
    if fabric.world_size > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(fabric.all_reduce(buffer, reduce_op="mean"))


def gather(fabric: Any, model: nn.Module) -> dict[str, Tensor]:
    """Every process's own buffers, (processes, ...): in the middle of an epoch they differ."""
    if fabric.world_size == 1:
        return {}
    return {name: fabric.all_gather(buffer) for name, buffer in model.named_buffers() if buffer.is_floating_point()}


def scatter(fabric: Any, model: nn.Module, gathered: dict[str, Tensor]) -> None:
    """Put this process's own buffers back; their mean if there are other processes than then."""
    for name, buffer in model.named_buffers():
        if name in gathered:
            values = gathered[name]
            same = len(values) == fabric.world_size
            buffer.copy_(values[fabric.global_rank] if same else values.mean(0))
