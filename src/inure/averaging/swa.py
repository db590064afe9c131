"""Stochastic weight averaging (Izmailov et al., 2018, arXiv:1803.05407; in adversarial training Chen et al., 2021)."""

from __future__ import annotations

from typing import Literal

from ..libraries import nn, torch
from ..schedules import Share
from ..settings.config import Settings
from .averager import Averager


class SWA(Settings):
    """The plain mean of the weights after every step from ``start`` on.

    BatchNorm statistics: their mean is kept during training, and before the average is evaluated ``train`` estimates
    them anew from batches crafted by the method itself. Clean images alone would give an adversarially trained net
    statistics that it never saw.
    """

    kind: Literal["swa"] = "swa"
    start: Share = 0.5

    def build(self, model: nn.Module) -> Averager:
        """The mean of ``model``'s weights."""
        return Averager(model, self._average, self.start)

    def _average(self, averaged: list[torch.Tensor], current: list[torch.Tensor], updates: int) -> None:
        torch._foreach_lerp_(averaged, current, 1 / (updates + 1))
