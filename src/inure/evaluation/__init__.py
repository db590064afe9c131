"""Evaluation: model x data x suite -> Evaluation."""

from .conditions import Conditions, Workers
from .intervals import wilson
from .protocol import weights_hash
from .run import Evaluation, evaluate, evaluate_under
from .suites import SUITES, Member

__all__ = [
    "SUITES",
    "Conditions",
    "Evaluation",
    "Member",
    "Workers",
    "evaluate",
    "evaluate_under",
    "weights_hash",
    "wilson",
]
