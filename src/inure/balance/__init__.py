"""Criteria, one for the attack and one for the update. To add one: write the file, add it to the union."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from ..libraries import Tensor
from ..settings.config import Settings
from ..types import Batch, Criterion
from .balanced_softmax import BalancedSoftmax
from .class_balanced_focal import ClassBalancedFocal
from .counter import Counter
from .cross_entropy import CrossEntropy
from .epsilon import ClassEpsilon
from .ldam import LDAM
from .rebalanced import Rebalanced
from .robal import RoBal
from .weighted import Weighted

AnyCriterion = Annotated[
    CrossEntropy | BalancedSoftmax | Weighted | ClassBalancedFocal | LDAM | RoBal | Rebalanced,
    Field(discriminator="kind"),
]
CRITERIA = (CrossEntropy, BalancedSoftmax, Weighted, ClassBalancedFocal, LDAM, RoBal, Rebalanced)


class Balance(Settings):
    """What the attack climbs and what the update descends, where the method leaves that open, and radii by class."""

    attack: AnyCriterion = CrossEntropy()
    train: AnyCriterion = CrossEntropy()
    epsilon: ClassEpsilon | None = None
    """Attacks rare classes in larger balls; None: all in the same."""
    counts: bool = False
    """Record what adversarial images are predicted as; on by itself where a criterion needs it."""

    def attack_at(self, batch: Batch) -> Criterion:
        """What the attack climbs on this batch."""
        return _at(self.attack, batch)

    def train_at(self, batch: Batch) -> Criterion:
        """What the update descends on this batch."""
        return _at(self.train, batch)

    def radii(self, batch: Batch) -> Tensor | None:
        """(B,) factors of epsilon for the images of the batch; None where all are alike."""
        return None if self.epsilon is None else self.epsilon.radii(batch)

    @property
    def counter(self) -> Counter | None:
        """What observes the predictions on adversarial images; None if nobody asks."""
        asked = any(getattr(criterion, "needs_counter", False) for criterion in (self.attack, self.train))
        return Counter() if self.counts or asked else None


def _at(criterion: Any, batch: Batch) -> Criterion:
    """A criterion that depends on the classes or on progress has ``at(batch)``, which says what it is there."""
    return criterion.at(batch) if hasattr(criterion, "at") else criterion


__all__ = [
    "CRITERIA",
    "LDAM",
    "AnyCriterion",
    "Balance",
    "BalancedSoftmax",
    "ClassBalancedFocal",
    "ClassEpsilon",
    "Counter",
    "CrossEntropy",
    "Rebalanced",
    "RoBal",
    "Weighted",
]
