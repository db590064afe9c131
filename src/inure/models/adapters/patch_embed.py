"""The first layer per domain: a ViT's patch embedding, a CNN's stem."""

from typing import Any

from torch import nn

from .head import linear_layers, stack_linear
from .mixture import Mixture


def attach(net: nn.Module, mixture: Mixture, settings: Any) -> int:
    """The convolutions of ``patch_embed``; without one, the first convolution of the net."""
    embed = getattr(net, "patch_embed", None)
    layers = linear_layers(embed, "patch_embed") if isinstance(embed, nn.Module) else []
    layers = layers or [(place, m) for place, m in linear_layers(net) if isinstance(m, nn.Conv2d)][:1]
    return stack_linear(layers, mixture)
