"""What an attack climbs that wants to change the prediction, whatever the label says."""

from __future__ import annotations

from dataclasses import dataclass

from ..libraries import Tensor
from ..losses import kl
from ..types import Labels, Logits, PerExample


@dataclass(frozen=True)
class Divergence:
    """KL(p || prediction) from the fixed predictions ``log_probs`` (B, K); it has no gradient where the two agree."""

    log_probs: Tensor

    def __call__(self, logits: Logits, y: Labels) -> PerExample:
        """(B,); the labels play no part."""
        return kl(logits, self.log_probs)

    def of(self, rows: Tensor) -> Divergence:
        """The same for some rows of the batch: attacks may let go of those that have fallen."""
        return Divergence(self.log_probs[rows])
