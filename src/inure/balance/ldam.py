"""LDAM: label-distribution-aware margins (Cao et al., 2019, arXiv:1906.07413)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..libraries import Tensor
from ..losses import cross_entropy
from ..schedules import Share
from ..settings.config import Real, Settings
from ..types import Batch, Criterion, Labels, Logits, PerExample
from .class_weights import counts_of, effective_weights, less_at_label, weight_of


class LDAM(Settings):
    """w_y CE(scale (z - m_y e_y), y), m_c = max_margin (n_min / n_c)^(1/4): rare classes get the larger margin.

    For cosines: the margins mean something where logits are in [-1, 1], so it wants ``model.head.kind=cosine`` with
    scale 1, and says so where the head is another. DRW: the weights of ``weighted`` from ``start`` on.

    Soft labels: every class has its share of its margin, and the weight is the mean under the label.

    Note:
        The weights are those of Cui et al. with ``beta`` 0.9999, as in the official code, from 160 of 200 epochs on.
        Scale 30 is that code's; RoBal's port of it has 10.
    """

    needs_cosine: ClassVar[bool] = True

    kind: Literal["ldam"] = "ldam"
    max_margin: Annotated[Real, Field(ge=0)] = 0.5
    """Of the rarest class."""
    scale: Annotated[Real, Field(gt=0)] = 30.0
    beta: Annotated[Real, Field(ge=0, le=1)] = 0.9999
    """Of the deferred weights."""
    start: Share = 0.8
    """Share of training before which there are no weights; 1: never."""

    def margins(self, counts: Tensor) -> Tensor:
        """(K,), ``max_margin`` for the rarest class. A class without examples counts as having one."""
        roots = counts.clamp_min(1) ** -0.25
        return self.max_margin * roots / roots.max()

    def at(self, batch: Batch) -> Criterion:
        """The criterion with the counts of the run."""
        counts = counts_of(batch)
        margins = self.margins(counts).to(batch.x)
        weights = effective_weights(counts, self.beta).to(batch.x) if batch.progress >= self.start else None

        def criterion(logits: Logits, y: Labels) -> PerExample:
            values = cross_entropy(self.scale * less_at_label(logits, y, margins), y)
            return values if weights is None else weight_of(weights, y) * values

        return criterion
