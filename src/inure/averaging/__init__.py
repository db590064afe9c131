"""Weights that are evaluated. To add one: write the file, add it to the union."""

from typing import Annotated

from pydantic import Field

from .averager import Averager
from .ema import EMA
from .swa import SWA

Averaging = Annotated[EMA | SWA, Field(discriminator="kind")]
AVERAGINGS = (EMA, SWA)

__all__ = ["AVERAGINGS", "EMA", "SWA", "Averager", "Averaging"]
