"""A claim of a paper, and what an experiment says of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..display.console import points
from ..evaluation.intervals import Z95
from ..libraries import Tensor
from .lab import Lab

Answer = Literal["reproduced", "not reproduced", "not decidable at this scale"]
UNDECIDED: Answer = "not decidable at this scale"


@dataclass(frozen=True)
class Interval:
    """A difference in accuracy and its 95 % interval, for one seed."""

    difference: float
    low: float
    high: float

    def text(self) -> str:
        """In percentage points."""
        return points(self.difference, (self.low, self.high))


@dataclass(frozen=True)
class Verdict:
    """What was found."""

    answer: Answer
    criterion: str
    """What had to hold, stated before the experiment."""
    reason: str
    columns: list[str]
    rows: list[list[Any]]
    figure: bytes
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """One claim."""

    name: str
    """``PAPER/CLAIM``."""
    statement: str
    """What the paper says, and where."""
    run: Callable[[Lab], Verdict]


def interval_of(values: Tensor) -> Interval:
    """Mean of (N,) paired differences, one for each example, with its 95 % interval (normal approximation)."""
    mean = float(values.mean())
    half = Z95 * float(values.std()) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def above(intervals: Sequence[Interval], least: float = 0.0) -> Answer:
    """Whether a difference is more than ``least`` in every seed.

    Reproduced if every seed's 95 % interval lies above ``least``, not reproduced if every one lies below, else not
    decidable.
    """
    return _decide([i.low > least for i in intervals], [i.high < least for i in intervals])


def below(intervals: Sequence[Interval], most: float = 0.0) -> Answer:
    """Whether a difference is less than ``most`` in every seed; the mirror image of ``above``."""
    return _decide([i.high < most for i in intervals], [i.low > most for i in intervals])


def within(intervals: Sequence[Interval], margin: float) -> Answer:
    """Whether a difference is at most ``margin`` either way in every seed (an equivalence test by intervals)."""
    inside = [i.low > -margin and i.high < margin for i in intervals]
    return _decide(inside, [i.low > margin or i.high < -margin for i in intervals])


def of_seeds(holding: Sequence[bool]) -> Answer:
    """Of a condition without an interval: reproduced if it holds in every seed, not reproduced if in none."""
    return _decide(holding, [not holds for holds in holding])


def every(answers: Sequence[Answer]) -> Answer:
    """Of several conditions: reproduced if all are, not reproduced if one is not, else not decidable."""
    return _decide([answer == "reproduced" for answer in answers], [any(a == "not reproduced" for a in answers)])


def _decide(holding: Sequence[bool], failing: Sequence[bool]) -> Answer:
    if holding and all(holding):
        return "reproduced"
    return "not reproduced" if failing and all(failing) else UNDECIDED
