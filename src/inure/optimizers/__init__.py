"""The optimizers. To add one: write the file (fields and ``build``), add it here."""

from typing import Annotated

from pydantic import Field

from .adamw import AdamW
from .groups import OptimizerSettings, parameter_groups
from .sgd import SGD

Optimizer = Annotated[SGD | AdamW, Field(discriminator="kind")]
OPTIMIZERS = (SGD, AdamW)

__all__ = ["OPTIMIZERS", "SGD", "AdamW", "Optimizer", "OptimizerSettings", "parameter_groups"]
