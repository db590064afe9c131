"""What is measured of a net while it trains, between two epochs, on images that stay the same."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..data import ImageSet
from ..noise import CounterNoise
from ..types import Images, Memory


@dataclass(frozen=True)
class Probe:
    """A net and the images that every measure of a run looks at: validation images, not augmented."""

    model: nn.Module
    """The net that is trained (not its average), in whatever mode; to be left as found, gradients and buffers too."""
    images: ImageSet
    """In an order in which the first n hold the classes equally, as far as there are enough."""
    attack: Any
    """The method's attack at its strength of the moment; None if it has none."""
    device: torch.device
    memory: Memory
    """What the run remembers; a measure keeps there what it compares with."""

    def batch(self, examples: int) -> tuple[Images, Tensor, CounterNoise]:
        """The first ``examples`` images, float in [0, 1], their labels, and noise that is the same at each look."""
        rows = torch.arange(min(examples, len(self.images)))
        x = self.images.batch(rows).to(self.device).float().div(255)
        noise = CounterNoise(0, self.images.index[rows].to(self.device))
        return x, self.images.labels[rows].to(self.device), noise


class Measure(Protocol):
    """A settings record with ``kind`` and ``every`` (epochs between two looks)."""

    def __call__(self, probe: Probe) -> dict[str, float]:
        """Numbers by name, for the record of the epoch; a phase of the regime may wait for one of them."""
        ...


def balanced_order(labels: Tensor) -> Tensor:
    """(N,) rows: one image of every class, then a second of every class, and so on, at random but fixed."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    shuffled = labels[order]
    by_class = shuffled.argsort(stable=True)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(labels).cumsum(0)])
    turn = torch.empty_like(by_class)
    turn[by_class] = torch.arange(len(labels)) - starts[shuffled[by_class]]
    return order[turn.argsort(stable=True)]
