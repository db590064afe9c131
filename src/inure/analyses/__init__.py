"""The analyses. To add one: write the file, add it here, add its card.

An analysis is a record of settings with ``run(subject) -> Finding``: what it is asked about, and its table, figure
and numbers.
"""

from .subject import Finding, Subject
from .transfer import Transfer

ANALYSES = (Transfer,)

__all__ = ["ANALYSES", "Finding", "Subject", "Transfer"]
