"""Criteria, one for the attack and one for the update. To add one: write the file, add it to the union."""

from typing import Any

from torch import Tensor

from ..config import Settings
from ..types import Batch, Criterion
from .cross_entropy import CrossEntropy

AnyCriterion = CrossEntropy
CRITERIA = (CrossEntropy,)


class Balance(Settings):
    """What the attack climbs and what the update descends, where the method leaves that open."""

    attack: AnyCriterion = CrossEntropy()
    train: AnyCriterion = CrossEntropy()

    def attack_at(self, batch: Batch) -> Criterion:
        """What the attack climbs on this batch."""
        return _at(self.attack, batch)

    def train_at(self, batch: Batch) -> Criterion:
        """What the update descends on this batch."""
        return _at(self.train, batch)

    def radii(self, batch: Batch) -> Tensor | None:
        """(B,) factors of epsilon for the images of the batch; None where all are alike."""
        return None

    @property
    def counter(self) -> Any:
        """What observes the predictions on adversarial images; None if nobody asks."""
        return None


def _at(criterion: Any, batch: Batch) -> Criterion:
    """A criterion that depends on the classes or on progress has ``at(batch)``, which says what it is there."""
    return criterion.at(batch) if hasattr(criterion, "at") else criterion


__all__ = ["CRITERIA", "AnyCriterion", "Balance", "CrossEntropy"]
