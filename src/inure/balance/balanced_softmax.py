"""Balanced softmax (Ren et al., 2020, arXiv:2007.10740); tau is that of logit adjustment (Menon, arXiv:2007.07314)."""

from typing import Annotated, Literal

from pydantic import Field

from ..losses import cross_entropy
from ..settings.config import Real, Settings
from ..types import Batch, Criterion, Labels, Logits, PerExample
from .class_weights import counts_of, log_prior


class BalancedSoftmax(Settings):
    """CE(z + tau log n, y): the softmax learns the prior from the counts n, not from its weights.

    In the update it is AT-BSL (Yue et al., 2024, arXiv:2403.10073) and the outer loss of REAT. At inference the plain
    logits are those of a balanced prior. Equal counts give cross-entropy, bit for bit. In the attack it changes the
    images: the weights enter inside the softmax, where a sign sees them.

    Soft labels: the cross-entropy of the label's distribution with the same prior added for all.

    Note:
        A class without training examples counts as having one. The official code raises such counts to 1 in the
        caller's list; here the counts stay as they are.
    """

    kind: Literal["balanced_softmax"] = "balanced_softmax"
    tau: Annotated[Real, Field(ge=0)] = 1.0
    """0 is cross-entropy; above 1 favours rare classes more."""

    def at(self, batch: Batch) -> Criterion:
        """The criterion with the counts of the run."""
        prior = (self.tau * log_prior(counts_of(batch))).to(batch.x)

        def criterion(logits: Logits, y: Labels) -> PerExample:
            return cross_entropy(logits + prior, y)

        return criterion
