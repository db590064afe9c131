"""BatchNorm statistics: estimated for averaged weights, made equal over processes, kept apart in checkpoints."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Loader, to_batch
from ..models.batchnorm import Source, batch_norms
from ..recipe.recipe import Recipe
from ..recipe.regime import END
from ..types import Batch, Memory

_BATCHES = 32
"""Batches from which the statistics of averaged weights are estimated."""


def has_statistics(model: nn.Module) -> bool:
    """Whether there is a BatchNorm with running statistics in the net."""
    return bool(batch_norms(model))


def estimate(
    model: nn.Module, recipe: Recipe, loader: Loader, epoch: int, num_classes: int, seed: int, memory: Memory, *,
    method: Any = None, progress: float = END, source: Source = "training", batches: int = _BATCHES,
) -> None:  # fmt: skip
    """Estimate the statistics of ``model`` anew: their plain mean over ``batches`` forwards.

    From ``training`` steps those of ``method`` (None: the recipe's) as it trains at ``progress``, whose attacks are on
    a copy with the statistics as they were, since those of ``model`` are in the making; from ``clean`` images one
    forward of each batch. Nothing is left in ``memory``, of which a copy is made.

    Note:
        An approximation: attacks are made without the tricks of ``crafting``, and penalties add nothing to them.
    """
    torch.manual_seed(seed)
    method = recipe.method if method is None else method
    memory = {name: value.clone() for name, value in memory.items()}
    attacked = copy.deepcopy(model)
    norms = batch_norms(model)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for the plain mean over batches
    model.train()
    for _, (pixels, labels, rows) in zip(range(batches), loader.epoch(epoch), strict=False):
        batch = Batch(*to_batch(pixels, labels, recipe.augment, num_classes), rows, progress, memory)
        attack = recipe.regime.search(method, progress, radii=recipe.balance.radii(batch))
        clean = source == "clean"
        x_adv = None if clean else method.craft(attacked, batch, attack, recipe.balance.attack_at(batch))
        with torch.no_grad():
            if x_adv is None:
                model(batch.x)
            else:
                method.losses(model, batch, x_adv, recipe.balance.train_at(batch))
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


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
    gathered = {}
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            gathered[name] = [torch.empty_like(buffer) for _ in range(fabric.world_size)]
            torch.distributed.all_gather(gathered[name], buffer)
    return {name: torch.stack(values) for name, values in gathered.items()}


def scatter(fabric: Any, model: nn.Module, gathered: dict[str, Tensor]) -> None:
    """Put this process's own buffers back; their mean if there are other processes than then."""
    for name, buffer in model.named_buffers():
        if name in gathered:
            values = gathered[name]
            same = len(values) == fabric.world_size
            buffer.copy_(values[fabric.global_rank] if same else values.mean(0))
