"""Pages from run directories. Reports only read; whatever a run does not hold yet is named on the page."""

from .page import write_report

__all__ = ["write_report"]
