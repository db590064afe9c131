"""The attacks. To add one: write the file, add it here, add its card and its line in tests/contracts.py."""

from typing import Annotated

from pydantic import Field

from .fgsm import FGSM
from .gradient import input_gradient
from .pgd import PGD

Attack = Annotated[FGSM | PGD, Field(discriminator="kind")]
"""What a method may search with."""
ATTACKS = (FGSM, PGD)

__all__ = ["ATTACKS", "FGSM", "PGD", "Attack", "input_gradient"]
