"""Criteria, one for the attack and one for the update. To add one: write the file, add it to the union."""

from ..config import Settings
from .cross_entropy import CrossEntropy

AnyCriterion = CrossEntropy
CRITERIA = (CrossEntropy,)


class Balance(Settings):
    """What the attack climbs and what the update descends, where the method leaves that open."""

    attack: AnyCriterion = CrossEntropy()
    train: AnyCriterion = CrossEntropy()


__all__ = ["CRITERIA", "AnyCriterion", "Balance", "CrossEntropy"]
