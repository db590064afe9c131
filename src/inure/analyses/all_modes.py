"""A net whose logits are those of several modes at once."""

from typing import Any

import torch
from torch import Tensor, nn

from ..types import Images


class AllModes(nn.Module):
    """The logits of all modes side by side, (B, M * K)."""

    def __init__(self, net: nn.Module, modes: list[Any]) -> None:
        super().__init__()
        self.net, self.modes = net, modes

    def forward(self, x: Images) -> Tensor:
        """(B, C, H, W) to (B, M * K)."""
        return torch.cat([self.net(x, mix=mode) for mode in self.modes], 1)
