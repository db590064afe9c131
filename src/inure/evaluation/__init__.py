"""Evaluation: model x data x suite -> Evaluation. Knows no run."""

from typing import TYPE_CHECKING

from ..libraries import later

if TYPE_CHECKING:
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
__getattr__, __dir__ = later(
    __name__,
    {
        "SUITES": "suites",
        "Conditions": "conditions",
        "Evaluation": "run",
        "Member": "suites",
        "Workers": "conditions",
        "evaluate": "run",
        "evaluate_under": "run",
        "weights_hash": "protocol",
        "wilson": "intervals",
    },
)
