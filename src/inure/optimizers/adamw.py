"""AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..libraries import nn, torch
from ..settings.config import Real
from .groups import OptimizerSettings, parameter_groups

Beta = Annotated[Real, Field(ge=0, lt=1)]


class AdamW(OptimizerSettings):
    """torch.optim.AdamW: decoupled weight decay."""

    kind: Literal["adamw"] = "adamw"
    lr: Annotated[Real, Field(gt=0)] = 1e-3
    weight_decay: Annotated[Real, Field(ge=0)] = 0.05
    betas: tuple[Beta, Beta] = (0.9, 0.999)

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of ``model``'s trainable parameters."""
        from .quick import AdamW as Update

        groups = parameter_groups(model, self.weight_decay, decay_all=self.decay_all)
        return Update(groups, lr=self.lr, betas=self.betas)
