"""What an audit measured, and how it answers a question about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..flags import FLAGS
from .curves import Curves
from .local import Surroundings
from .runs import Run


@dataclass(frozen=True)
class Evidence:
    """All that an audit measured."""

    right: Tensor
    """(N,) bool on the clean images."""
    logits: Tensor
    """(N, K) of the clean images."""
    fgsm: Run
    short: Run
    long: Run
    """PGD with twice the steps; its first half is the attack itself."""
    margin: Run
    unbounded: Run
    square: Run
    transfer: Run | None
    curve: Sequence[tuple[float, Run]]
    """By radius, rising, without 0."""
    near: Surroundings | None
    curves: Curves
    doubts: Sequence[dict[str, str]]
    """Flags of the probe."""
    short_steps: int
    steps: int

    @property
    def size(self) -> int:
        """All examples of the subset."""
        return len(self.right)

    @property
    def runs(self) -> list[Run]:
        """Of all attacks."""
        every = (self.fgsm, self.short, self.long, self.margin, self.unbounded, self.square, self.transfer)
        return [*(run for run in every if run is not None), *(run for _, run in self.curve)]

    @property
    def radii(self) -> list[tuple[float, Tensor]]:
        """Radius and (N,) who stands, rising from 0."""
        return [(0.0, self.right), *((radius, run.standing) for radius, run in self.curve)]

    def standing_after(self, steps: int) -> Tensor:
        """(N,) bool: right on the clean image and at the first iterates of the long run."""
        standing = self.right.clone()
        if self.long.steps is not None:
            standing[self.right] = ~self.long.steps.fooled[: steps + 1].any(0)
        return standing

    @property
    def white_box(self) -> Tensor:
        """(N,) bool: standing after every attack that uses gradients at epsilon."""
        return self.fgsm.standing & self.short.standing & self.long.standing & self.margin.standing

    def decided(self, passed: bool) -> bool | None:
        """``passed``, or None where nothing could be attacked because nothing is right."""
        return passed if bool(self.right.any()) else None


def answer(
    letter: str, name: str, question: str, found: dict[str, Any], passed: bool | None, flag: str, detail: str
) -> dict[str, Any]:
    """One check as data; ``flag`` is what it raises where it is not passed."""
    return {
        "letter": letter, "name": name, "question": question, "found": found, "threshold": FLAGS[flag].threshold,
        "passed": passed, "flag": flag, "detail": detail,
    }  # fmt: skip


def count(mask: Tensor) -> int:
    """How many are true."""
    return int(mask.sum())


def beyond(number: int, total: int, share: float, least: int) -> bool:
    """Whether so many of a total are over a share of it, and at least some number."""
    return number >= least and number > share * total
