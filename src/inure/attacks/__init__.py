"""The attacks. To add one: write the file, add it here, add its card and its line in tests/contracts.py."""

from typing import Annotated

from pydantic import Field

from .apgd import APGD
from .fgsm import FGSM
from .gradient import input_gradient
from .pgd import PGD

Attack = Annotated[FGSM | PGD | APGD, Field(discriminator="kind")]
"""What a method may search with."""
ATTACKS = (FGSM, PGD, APGD)

__all__ = ["APGD", "ATTACKS", "FGSM", "PGD", "Attack", "input_gradient"]
