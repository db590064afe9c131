"""The classifier head per domain."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from .layers import LINEAR, MixedLinear, exchange
from .mixture import Mixture
from .stacks import stack_parameter


def attach(net: nn.Module, mixture: Mixture, settings: Any) -> int:
    """The last linear layer or convolution: timm's ``get_classifier()``, else the last one registered."""
    named = getattr(net, "get_classifier", lambda: None)()
    layers = linear_layers(net)
    chosen = [(place, m) for place, m in layers if m is named] or layers[-1:]
    stack_linear(chosen, mixture)
    return len(chosen)


def linear_layers(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """(place, layer) of every linear layer and convolution."""
    return [(place, m) for place, m in module.named_modules(prefix=prefix) if isinstance(m, LINEAR)]


def stack_linear(
    layers: Sequence[tuple[str, nn.Module]], mixture: Mixture, names: tuple[str, ...] | None = None
) -> int:
    """Stack the parameters called ``names`` (all by default) of some layers; how many there were."""
    count = 0
    for place, layer in layers:
        found = [n for n in names or ("weight", "bias") if isinstance(getattr(layer, n, None), nn.Parameter)]
        if found:
            exchange(layer, MixedLinear, mixture)
        for name in found:
            stack_parameter(layer, name, mixture, f"{place}.{name}")
        count += len(found)
    return count
