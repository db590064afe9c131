"""Stochastic gradient descent with momentum."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from ..config import Real
from .groups import OptimizerSettings, parameter_groups


class SGD(OptimizerSettings):
    """torch.optim.SGD: coupled weight decay."""

    kind: Literal["sgd"] = "sgd"
    momentum: Annotated[Real, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of ``model``'s trainable parameters."""
        groups = parameter_groups(model, self.weight_decay, decay_all=self.decay_all)
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)
