"""The words that every file shares: images, labels, logits, a batch, its losses, the scale of an experiment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from .libraries import Tensor, nn

Images = Tensor
"""(B, C, H, W), float, in [0, 1]."""
Labels = Tensor
"""(B,) int64 classes, or (B, K) float probabilities."""
Logits = Tensor
"""(B, K)."""
PerExample = Tensor
"""(B,)."""

Criterion = Callable[[Logits, Labels], PerExample]
"""A per-example loss. The mean is taken once, in ``train_step``."""
Term = Callable[[Logits], PerExample]
"""What a penalty adds to the loss that an attack climbs."""
Memory = dict[str, Tensor]
"""What a run remembers between its steps (see ``memory.py``)."""
Scale = Literal["smoke", "gpu", "paper"]
"""How large an experiment is: minutes on a CPU, hours on one GPU, as in the paper."""


@dataclass(frozen=True)
class Batch:
    """What one training step sees."""

    x: Images
    y: Labels
    index: Tensor
    """(B,) int64 rows of the data set, for methods with a memory per example."""
    progress: float
    """Fraction of training done, in [0, 1)."""
    memory: Memory = field(default_factory=dict)
    """What the run remembers between its steps; pieces with a memory change it in place."""


class Losses(NamedTuple):
    """What one training step minimises."""

    total: PerExample
    parts: dict[str, PerExample]
    """Named terms, to log."""


class Search(Protocol):
    """An attack that climbs a loss inside a threat model: FGSM, PGD."""

    def __call__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        *,
        loss: Criterion = ...,
        crafting: Crafting | None = None,
        noise: Noise | None = None,
    ) -> Images:
        """Images in the threat model around ``x`` that raise ``loss``."""
        ...


class Crafting(Protocol):
    """A trick that acts only while adversarial examples are crafted.

    It may also have ``prepare(model)``, called once before the net is compiled; ``finish(x_adv, x)``, which has the
    last word on an attack's result; and ``blind``, true where the coming gradient is known to be zero.
    """

    def begin(self, model: nn.Module, progress: float) -> None:
        """Called once, before the first gradient."""

    def step(self, k: int, x_adv: Images, x: Images) -> Images:
        """Called before gradient ``k``; returns the iterate at which it is taken."""
        ...

    def end(self) -> None:
        """Called once, also after an exception."""


class Noise(Protocol):
    """A source of randomness shaped like the images; each call draws anew."""

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform on [0, 1)."""
        ...

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal."""
        ...
