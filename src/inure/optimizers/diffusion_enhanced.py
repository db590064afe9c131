"""The settings of DEAT's update in a recipe; ``deat.py`` has the update itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..libraries import nn, torch
from ..settings.config import Real
from .groups import OptimizerSettings, parameter_groups


class DiffusionEnhanced(OptimizerSettings):
    """``kind: deat``. With k1 = 0 it is a moving average of the gradient, without the negative part."""

    kind: Literal["deat"] = "deat"
    k1: Annotated[Real, Field(ge=0)] = 1.0
    k2: Annotated[Real, Field(ge=0, lt=1)] = 0.81
    decoupled: bool = True
    """Weight decay as in the official code; false: as torch's SGD."""
    match_lr: bool = False
    """The same long-run step as SGD at this lr, instead of one that is sqrt((1 + k1)^2 + k1^2) times smaller."""

    @property
    def long_run_step(self) -> float:
        """The step that a constant gradient of 1 ends in, for lr 1."""
        from .deat import step_divisor

        return 1.0 if self.match_lr else 1 / step_divisor(self.k1)

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of ``model``'s trainable parameters."""
        from .deat import DEAT

        groups = parameter_groups(model, self.weight_decay, decay_all=self.decay_all)
        return DEAT(groups, self.lr, self.k1, self.k2, decoupled=self.decoupled, match_lr=self.match_lr)
