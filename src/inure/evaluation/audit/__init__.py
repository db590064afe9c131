"""The audit of a robustness number: whether the attacks behind it do what attacks must do."""

from .questions import Audit, Effort, audit, draw

__all__ = ["Audit", "Effort", "audit", "draw"]
