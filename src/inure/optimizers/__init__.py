"""The optimizers. To add one: write the file (fields and ``build``), add it here.

``DEAT`` is the ``torch.optim.Optimizer``, for programs of your own; ``DiffusionEnhanced`` its settings in a recipe.
"""

from typing import Annotated

from pydantic import Field

from .adamw import AdamW
from .deat import DEAT
from .diffusion_enhanced import DiffusionEnhanced
from .groups import OptimizerSettings, parameter_groups
from .sgd import SGD

Optimizer = Annotated[SGD | AdamW | DiffusionEnhanced, Field(discriminator="kind")]
OPTIMIZERS = (SGD, AdamW, DiffusionEnhanced)

__all__ = [
    "DEAT",
    "OPTIMIZERS",
    "SGD",
    "AdamW",
    "DiffusionEnhanced",
    "Optimizer",
    "OptimizerSettings",
    "parameter_groups",
]
