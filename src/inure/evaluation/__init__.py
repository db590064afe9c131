"""Evaluation: model x data x suite -> Evaluation."""

from .intervals import wilson
from .protocol import weights_hash
from .run import Evaluation, Workers, evaluate
from .suites import SUITES, Member

__all__ = ["SUITES", "Evaluation", "Member", "Workers", "evaluate", "weights_hash", "wilson"]
