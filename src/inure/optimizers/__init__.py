"""The optimizers. To add one: write the file (fields and ``build``), add it here.

``DEAT`` is the ``torch.optim.Optimizer``, for programs of your own; ``DiffusionEnhanced`` its settings in a recipe.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from ..libraries import later
from .adamw import AdamW
from .diffusion_enhanced import DiffusionEnhanced
from .groups import OptimizerSettings, parameter_groups
from .sgd import SGD

if TYPE_CHECKING:
    from .deat import DEAT

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
__getattr__, __dir__ = later(__name__, {"DEAT": "deat"})
