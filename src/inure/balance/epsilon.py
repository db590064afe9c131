"""Radii by class: rare classes are attacked in larger balls (RobustLT, as its code has it for REAT)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..libraries import Tensor, torch
from ..schedules import Share, warm
from ..settings.config import Real, Settings
from ..types import Batch, PerExample
from .class_weights import counts_of, weight_of


class ClassEpsilon(Settings):
    """eps_y = (1 - a) eps + a eps r_y, r_y = sqrt(log K_y) / sum_c P(c) sqrt(log K_c), K_y = n_max / n_y.

    P is the training prior, so that the mean radius over the training images stays eps. The step size is scaled alike.
    Classes with as many images as the largest one have (1 - a) eps. A soft label has the mean radius under it.

    Note:
        From the code of RobustLT (CVPR 2026), where it is called CPB; the paper was not at hand. Its warm-up
        min((t - 1) / (b T), 1) is taken to multiply a, and t is the progress of training here, not an epoch.
        All classes alike give 0 / 0, and here no change. A class without examples counts as having one in K, and as
        none in P.
    """

    share: Annotated[Real, Field(ge=0, le=1)] = 0.3
    """a: how much of epsilon goes by the class."""
    warmup: Share = 0.8
    """b: share of training over which a grows from 0."""

    def factors(self, counts: Tensor, progress: float) -> Tensor:
        """(K,), whose mean over the training images is 1."""
        there = counts.clamp_min(1)
        roots = (there.max() / there).log().sqrt()
        mean = (counts * roots).sum() / counts.sum()
        ratios = torch.where(mean > 0, roots / mean, 1.0)
        return 1 + self.share * warm(progress, self.warmup) * (ratios - 1)

    def radii(self, batch: Batch) -> PerExample:
        """(B,) factors of epsilon and of the step size."""
        return weight_of(self.factors(counts_of(batch), batch.progress).to(batch.x), batch.y)
