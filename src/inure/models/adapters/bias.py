"""The biases of all linear layers and convolutions per domain (BitFit, Ben Zaken et al., 2022, arXiv:2106.10199)."""

from typing import Any

from torch import nn

from .head import linear_layers, stack_linear
from .mixture import Mixture


def attach(net: nn.Module, mixture: Mixture, settings: Any) -> int:
    """Every bias but those of norms, which belong to ``norm``."""
    return stack_linear(linear_layers(net), mixture, ("bias",))
