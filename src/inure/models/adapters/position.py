"""Position embeddings per domain: learned ones, and the relative position bias tables of Swin."""

from typing import Any

from torch import nn

from .cls_token import stack_named
from .mixture import Mixture

_NAMES = ("pos_embed", "absolute_pos_embed", "relative_position_bias_table")


def attach(net: nn.Module, mixture: Mixture, settings: Any) -> int:
    """Every learned embedding of positions."""
    return stack_named(net, mixture, _NAMES)
