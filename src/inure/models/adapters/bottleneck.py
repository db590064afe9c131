"""Bottleneck adapters (Houlsby et al., 2019, arXiv:1902.00751): two layers after each attention and each MLP."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .mixture import Mixture
from .stacks import Stacks


class Bottleneck(Stacks):
    """x + up(gelu(down(x))) with ``down`` and ``up`` per domain; ``up`` starts at zero, so that nothing changes.

    Args:
        mixture: The choice in use.
        last: The layer before it; of its width, precision and device.
        width: Hidden units.
    """

    def __init__(self, mixture: Mixture, last: nn.Linear, width: int) -> None:
        super().__init__()
        self.mixture = mixture
        domains, dim, like = len(mixture.domains), last.out_features, last.weight.detach()
        down = torch.nn.init.trunc_normal_(like.new_empty(width, dim), std=0.02)
        self.down = nn.Parameter(down.expand(domains, -1, -1).clone())
        self.down_bias = nn.Parameter(like.new_zeros(domains, width))
        self.up = nn.Parameter(like.new_zeros(domains, dim, width))
        self.up_bias = nn.Parameter(like.new_zeros(domains, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., D) to the same shape."""
        if self.mixture.folded:
            down, down_bias, up, up_bias = (self.mixture.fold(p) for p in self.parameters())
            return x + F.linear(F.gelu(F.linear(x, down, down_bias)), up, up_bias)
        down, down_bias, up, up_bias = (self.mixture.unfold(p, len(x)) for p in self.parameters())
        hidden = F.gelu(torch.einsum("b...d,bhd->b...h", x, down) + _spread(down_bias, x))
        return x + torch.einsum("b...h,bdh->b...d", hidden, up) + _spread(up_bias, x)


def attach(net: nn.Module, mixture: Mixture, settings: Any) -> int:
    """After every ``attn`` and ``mlp`` of a block that has both."""
    branches: list[Any] = [
        branch
        for block in net.modules()
        if isinstance(getattr(block, "attn", None), nn.Module) and isinstance(getattr(block, "mlp", None), nn.Module)
        for branch in (block.attn, block.mlp)
    ]
    for branch in branches:
        branch.bottleneck = Bottleneck(mixture, _last_linear(branch), settings.bottleneck_width)
        branch.register_forward_hook(_through)
    return len(branches)


def _last_linear(branch: nn.Module) -> nn.Linear:
    """``proj`` of an attention, ``fc2`` of an MLP; else the last one registered."""
    layers = {name: m for name, m in branch.named_modules() if isinstance(m, nn.Linear)}
    return layers.get("proj") or layers.get("fc2") or [*layers.values()][-1]


def _through(branch: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return branch.bottleneck(output)  # type: ignore[operator]


def _spread(bias: Tensor, x: Tensor) -> Tensor:
    return bias.view(len(bias), *[1] * (x.ndim - 2), -1)
