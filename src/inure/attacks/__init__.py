"""The attacks. To add one: write the file, add it here, add its card and its line in tests/contracts.py."""

from typing import Annotated

from pydantic import Field

from .apgd import APGD
from .fgsm import FGSM
from .gradient import input_gradient
from .pgd import PGD
from .pyramid import Pyramid

Attack = Annotated[FGSM | PGD | APGD | Pyramid, Field(discriminator="kind")]
"""What a method may search with."""
ATTACKS = (FGSM, PGD, APGD, Pyramid)

__all__ = ["APGD", "ATTACKS", "FGSM", "PGD", "Attack", "Pyramid", "input_gradient"]
