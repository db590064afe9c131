"""The audit of a robustness number: whether the attacks behind it do what attacks must do."""

from .audit import Audit, Effort, audit, draw

__all__ = ["Audit", "Effort", "audit", "draw"]
