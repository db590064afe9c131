"""Class weights by effective numbers (Cui et al., 2019, arXiv:1901.05555), from the start or deferred."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..losses import cross_entropy
from ..schedules import Share
from ..settings.config import Real, Settings
from ..types import Batch, Criterion
from .class_weights import counts_of, effective_weights, weighted


class Weighted(Settings):
    """w_y CE(z, y), w_c proportional to (1 - beta) / (1 - beta^n_c), with mean 1 over the classes.

    ``start`` is deferred re-weighting, DRW (Cao et al., 2019, arXiv:1906.07413: 160 of 200 epochs, so 0.8). In an
    attack weights do nothing. A soft label has the mean weight under it.

    Note:
        torch's weighted mean divides by the weights in the batch; here the mean over the batch divides by its size, so
        that a batch of tail images weighs more than one of head images. Classes without examples have weight 0.
    """

    only_weights: ClassVar[bool] = True
    """Each example's cross-entropy times a positive number, under soft labels too: see ``notices.py``."""

    kind: Literal["weighted"] = "weighted"
    beta: Annotated[Real, Field(ge=0, le=1)] = 0.9999
    """0: all weights are 1. 1: the inverse of the counts."""
    start: Share = 0.0
    """Share of training before which there are no weights."""

    def at(self, batch: Batch) -> Criterion:
        """The criterion with the counts of the run."""
        if batch.progress < self.start:
            return cross_entropy
        return weighted(effective_weights(counts_of(batch), self.beta), batch)
