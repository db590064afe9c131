"""Temporary states of a net: frozen, and the mode in which an attack sees it. All are undone at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from ..libraries import nn

AttackMode = Literal["eval", "train", "train_frozen_stats"]
"""How the net behaves while adversarial examples are crafted."""
BatchNormMode = Literal["running", "batch"]
"""``running``: statistics as in eval mode; an entry of the kernel is a function of its two images. ``batch``: those
of all images given, so that every entry changes with the images beside its two."""


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient inside.

    Under ``torch.compile`` this saves the weight gradients, which eager ``autograd.grad`` skips anyway.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def attack_mode(model: nn.Module, mode: AttackMode) -> Iterator[None]:
    """Put the net into ``mode``; afterwards every module has its own ``training`` flag back.

    Args:
        model: Any module, compiled ones included.
        mode: ``eval``: running statistics, no dropout (TRADES). ``train``: batch statistics, which also
            enter the running ones (Rice et al.). ``train_frozen_stats``: batch statistics, and the running
            ones stay as they are, bit for bit.
    """
    flags = [(module, module.training) for module in model.modules()]
    statistics = _detached_statistics(model) if mode == "train_frozen_stats" else []
    before = [(module, name, getattr(module, name)) for module, name, _ in statistics]
    try:
        model.train(mode != "eval")
        for module, name, value in statistics:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
        for module, training in flags:
            module.training = training


def _detached_statistics(model: nn.Module) -> list[tuple[nn.Module, str, Any]]:
    """Attributes, with temporary values, that keep norms in train mode from their running statistics."""
    changes: list[tuple[nn.Module, str, Any]] = []
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            changes.append((module, "track_running_stats", False))
        elif isinstance(module, nn.modules.instancenorm._InstanceNorm):
            # InstanceNorm updates its buffers whatever track_running_stats says.
            changes += [(module, "running_mean", None), (module, "running_var", None)]
    return changes
