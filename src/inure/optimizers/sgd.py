"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..libraries import nn, torch
from ..settings.config import Real
from .groups import OptimizerSettings, parameter_groups


class SGD(OptimizerSettings):
    """torch.optim.SGD: coupled weight decay."""

    kind: Literal["sgd"] = "sgd"
    momentum: Annotated[Real, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False

    @property
    def long_run_step(self) -> float:
        """The step that a constant gradient of 1 ends in, for lr 1; Nesterov's too."""
        return 1 / (1 - self.momentum)

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of ``model``'s trainable parameters."""
        from .quick import SGD as Update

        groups = parameter_groups(model, self.weight_decay, decay_all=self.decay_all)
        return Update(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)
