"""LoRA (Hu et al., 2022, arXiv:2106.09685): low-rank updates of the query and value projections, per domain."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .layers import Mixed, exchange
from .mixture import Mixture, OneMixOnly
from .stacks import Stacks

_ONE = (1, (0,))
_ADAPTED = {"qkv": (3, (0, 2)), "qk": (2, (0,)), "q": _ONE, "v": _ONE, "q_proj": _ONE, "v_proj": _ONE}
"""Layers by name: how many projections they hold, and which of these are queries and values."""


class LowRank(Stacks):
    """The parametrization W + up @ down of some row blocks of a weight; ``up`` starts at zero.

    Args:
        mixture: The choice in use.
        weight: (out, in).
        blocks: Equal row blocks of the weight.
        chosen: Which of them are updated.
        rank: Of an update.
        mix: ``factors``: a mix weighs down and up, as it weighs all other parameters. ``product``: it weighs the
            updates. Equal for a domain alone.
    """

    def __init__(
        self, mixture: Mixture, weight: Tensor, blocks: int, chosen: tuple[int, ...], rank: int, mix: str
    ) -> None:
        super().__init__()
        self.mixture, self.blocks, self.chosen, self.mix = mixture, blocks, chosen, mix
        self.added_later = False
        """Whether the layer runs, which adds each image's own update to its output."""
        domains, (rows, columns) = len(mixture.domains), weight.shape
        down = weight.detach().new_empty(len(chosen), rank, columns)
        nn.init.kaiming_uniform_(down.view(-1, columns), a=5**0.5)
        self.down = nn.Parameter(down.expand(domains, -1, -1, -1).clone())
        self.up = nn.Parameter(down.new_zeros(domains, len(chosen), rows // blocks, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight under a mix that is the same for all images; without an update under mixes per image."""
        if not self.mixture.folded:
            if not self.added_later:  # the net multiplies by the weight itself: BEiT, EVA, Swin V2
                raise OneMixOnly
            return weight
        if self.mix == "product":
            return weight + self._placed(self.mixture.fold(self.up @ self.down).unbind(0), 0)
        return weight + self._placed((self.mixture.fold(self.up) @ self.mixture.fold(self.down)).unbind(0), 0)

    def outputs(self, x: Tensor) -> Tensor:
        """(B, ..., out): what the update adds to the layer's output under mixes per image."""
        if self.mix == "product":
            return self.mixture.blend(
                [self._add(x, down[None], up[None]) for down, up in zip(self.down, self.up, strict=True)]
            )
        return self._add(x, self.mixture.unfold(self.down, len(x)), self.mixture.unfold(self.up, len(x)))

    def _add(self, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        down, up = (t.expand(len(x), *t.shape[1:]) for t in (down, up))
        updates = torch.einsum("b...i,bcri->b...cr", x, down)
        updates = torch.einsum("b...cr,bcor->b...co", updates, up)
        return self._placed(updates.unbind(-2), -1)

    def _placed(self, updates: Sequence[Tensor], dim: int) -> Tensor:
        """The updates where their blocks are along ``dim``, zeros elsewhere."""
        blocks = [torch.zeros_like(updates[0])] * self.blocks
        for block, update in zip(self.chosen, updates, strict=True):
            blocks[block] = update
        return torch.cat(blocks, dim)


class MixedLowRank(Mixed):
    """A linear layer with a low-rank update per domain."""

    def forward(self, x: Tensor) -> Tensor:
        """As the layer, with each image's own update."""
        if self.mixture.folded:
            return super().forward(x)  # type: ignore[misc]
        module: Any = self
        update: LowRank = module.parametrizations.weight[0]
        update.added_later = True
        try:
            output = super().forward(x)  # type: ignore[misc]
        finally:
            update.added_later = False
        return output + update.outputs(x)


def attach(net: nn.Module, mixture: Mixture, settings: Any) -> int:
    """Queries and values of every attention, found by the names of their layers."""
    layers = [
        (m, *_ADAPTED[place.rpartition(".")[2]])
        for place, m in net.named_modules()
        if isinstance(m, nn.Linear) and place.rpartition(".")[2] in _ADAPTED
    ]
    for layer, blocks, chosen in layers:
        exchange(layer, MixedLowRank, mixture)
        update = LowRank(mixture, layer.weight, blocks, chosen, settings.lora_rank, settings.lora_mix)
        parametrize.register_parametrization(layer, "weight", update)
    return len(layers)
