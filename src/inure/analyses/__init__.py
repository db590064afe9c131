"""The analyses. To add one: write the file, add it here, add its card.

An analysis is a record of settings with ``run(subject) -> Finding``: what it is asked about, and its table, figure
and numbers.
"""

from .ntk import NTK
from .subject import Finding, Subject
from .transfer import Transfer

ANALYSES = (Transfer, NTK)

__all__ = ["ANALYSES", "NTK", "Finding", "Subject", "Transfer"]
