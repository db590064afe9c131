"""Exponential moving average of the weights (in adversarial training: Gowal et al., 2020, arXiv:2010.03593)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool

from ..libraries import nn, torch
from ..schedules import Share
from ..settings.config import Real, Settings
from .averager import Averager


class EMA(Settings):
    """w_avg <- d * w_avg + (1 - d) * w after every step, d = min(decay, (1 + t) / (10 + t)) with warm-up."""

    kind: Literal["ema"] = "ema"
    decay: Annotated[Real, Field(ge=0, lt=1)] = 0.999
    warmup: StrictBool = True
    """Shorter memory at first, so that short runs do not evaluate the initial weights."""
    start: Share = 0.0

    def build(self, model: nn.Module) -> Averager:
        """An average of ``model``; BatchNorm statistics are averaged the same way."""
        return Averager(model, self._average, self.start)

    def _average(self, averaged: list[torch.Tensor], current: list[torch.Tensor], updates: int) -> None:
        decay = min(self.decay, (1 + updates) / (10 + updates)) if self.warmup else self.decay
        torch._foreach_lerp_(averaged, current, 1 - decay)
