"""Mean accuracy over several sets of images, with an interval that knows which sets are the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ..evaluation.intervals import wilson
from ..libraries import Tensor, torch


@dataclass(frozen=True)
class SetOutcomes:
    """What an evaluation found on one set, image by image."""

    base: str
    """Sets of one base and one ``index`` are the same images."""
    index: Tensor
    clean: Tensor
    """(N,) bool: right."""
    robust: Tensor | None
    """(N,) bool: right, and standing to the end; None if nothing attacked."""

    @property
    def images(self) -> tuple[str, bytes]:
        """Equal for sets of the same images."""
        return self.base, self.index.numpy().tobytes()


def mean_accuracies(sets: Sequence[SetOutcomes]) -> dict[str, Any]:
    """``clean_accuracy``, ``robust_accuracy`` (None unless all sets were attacked) and ``interval95`` of both."""
    clean, clean_interval = mean_interval([(part.images, part.clean) for part in sets])
    attacked = [(part.images, part.robust) for part in sets if part.robust is not None]
    robust, robust_interval = mean_interval(attacked) if len(attacked) == len(sets) else (None, None)
    return {
        "clean_accuracy": clean, "robust_accuracy": robust,
        "interval95": {"clean": clean_interval, "robust": robust_interval},
    }  # fmt: skip


def mean_interval(rights: Sequence[tuple[Any, Tensor]]) -> tuple[float, list[float]]:
    """The mean of the accuracies of sets, each counted once, and its 95 % interval.

    The images are taken as drawn at random, the sets as given. The interval is Wilson's at the effective number of
    examples: that of which a binomial share would have the variance of the mean (Kish, 1965). Sets of the same images
    count together, image by image, since an image that is hard in one of them is hard in the others.

    Args:
        rights: For each set what is equal for sets of the same images, and (N,) bool.
    """
    together: dict[Any, list[Tensor]] = {}
    for images, right in rights:
        together.setdefault(images, []).append(right.double())
    # In fractions: a mean that should be 0.88 must pass a gate at 0.88
    mean = float(sum(Fraction(int(right.sum()), len(right)) for _, right in rights) / len(rights))
    sums = [torch.stack(parts).sum(0) for parts in together.values()]
    variance = sum(float(total.var(correction=0)) / len(total) for total in sums) / len(rights) ** 2
    fewest, most = min(len(total) for total in sums), sum(len(right) for _, right in rights)
    effective = mean * (1 - mean) / variance if variance > 0 else float(most if 0 < mean < 1 else fewest)
    effective = min(max(effective, fewest), most)
    return mean, list(wilson(mean * effective, effective))
