"""The normalisations that every ResNet here can be built with."""

from collections.abc import Callable
from typing import Any, Literal

from torch import nn

Norm = Literal["batch", "layer", "group", "none"]
"""``layer`` is over channels and pixels together; ``group`` has 32 groups, or the largest divisor below."""


def norm_layer(norm: Norm) -> Callable[..., nn.Module]:
    """A constructor ``make(channels)`` for (B, channels, H, W) maps."""
    return {"batch": nn.BatchNorm2d, "layer": _layer_norm, "group": _group_norm, "none": nn.Identity}[norm]


def _layer_norm(channels: int, **factory: Any) -> nn.GroupNorm:
    return nn.GroupNorm(1, channels, **factory)


def _group_norm(channels: int, **factory: Any) -> nn.GroupNorm:
    groups = max(g for g in range(1, min(32, channels) + 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels, **factory)
