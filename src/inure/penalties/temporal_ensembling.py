"""Temporal ensembling against memorization (Dong et al., 2022, arXiv:2106.01606): predictions stay near their past."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..libraries import Tensor, nn, torch
from ..memory import Facts, new_rows, write_rows
from ..models.modes import attack_mode
from ..schedules import Share
from ..settings.config import Real, Settings
from ..settings.errors import UserError
from ..types import Batch, Logits, Memory, PerExample, Term
from .penalty import Outer

_PREDICTIONS = "temporal_ensembling.predictions"
_RAMP = 5.0
"""The weight begins at exp(-5) of itself (Laine and Aila, 2017, arXiv:1610.02242)."""


class TemporalEnsembling(Settings):
    """w(t) * sum_k (p_k - q_k)^2, p the prediction and q the normalised ensemble of this image's clean predictions.

    Each time an image comes, P <- momentum P + (1 - momentum) softmax f(x), with the net in eval mode, before the
    attack; q = P / sum_k P_k. As P begins at zero this is the average with its bias corrected, exactly. The same term
    is part of what the attack climbs. Labels that the net had to be forced to learn are thereby not learned by heart.

    Note:
        Read in the official code. There the square is averaged over the K classes and the weight is 300, which for
        K = 10 is the sum here with 30 (recalled: the paper writes 30); for the sum the weight means the same for any
        K, for the mean it does not. There t is the epoch, counted from 1; here it is the progress of every step, so
        that ``start=89/200, end=149/200`` is what the code has at the first step of each of its 200 epochs (90, 150).
        There a comment says that P begins at the labels; it begins at zero. With mixup an ensemble is of mixtures of
        its image with ever other ones: it runs, and nobody has shown that it helps.
    """

    kind: Literal["temporal_ensembling"] = "temporal_ensembling"
    weight: Annotated[Real, Field(ge=0)] = 30.0
    """Of the sum over classes, once the ramp is over."""
    momentum: Annotated[Real, Field(ge=0, lt=1)] = 0.9
    start: Share = 0.45
    """Share of training at which predictions are first remembered. Too early freezes mistakes."""
    end: Share = 0.75
    """Share at which the weight is full; from ``start`` it is weight * exp(-5 (1 - t)^2), t from 0 to 1."""
    on: Literal["auto", "clean", "adversarial"] = "auto"
    """Which predictions the update keeps near; auto: those that the method compares with labels (adversarial, but
    clean for TRADES). The attack's are always the adversarial ones."""

    @model_validator(mode="after")
    def _ordered(self) -> TemporalEnsembling:
        if self.end < self.start:
            raise UserError("end", self.end, f"a share of training from start = {self.start:g} on")
        return self

    def remember(self, facts: Facts) -> Memory:
        """A row of K numbers for each training image: 4 N K bytes."""
        return {_PREDICTIONS: new_rows(facts.examples, facts.num_classes, device=facts.device)}

    def attack_term(self, model: nn.Module, batch: Batch) -> Term | None:
        """Take note of the clean predictions; one forward without gradients, from ``start`` on."""
        if not self._weight(batch.progress):
            return None
        self._take_note(model, batch)
        return _Near(_past(batch), self._weight(batch.progress))

    def __call__(self, outer: Outer) -> PerExample:
        """(A * B,), between 0 and twice the weight; 0 before ``start``."""
        logits, batch = outer.labelled if self.on == "auto" else outer.predictions(self.on), outer.batch
        if not self._weight(batch.progress):
            return logits.new_zeros(len(logits))
        near = _Near(_past(batch).repeat(len(logits) // len(batch.x), 1), self._weight(batch.progress))
        return near(logits)

    def _weight(self, progress: float) -> float:
        if progress < self.start:
            return 0.0
        t = min(1.0, (progress - self.start) / (self.end - self.start)) if self.end > self.start else 1.0
        return self.weight * math.exp(-_RAMP * (1 - t) ** 2)

    def _take_note(self, model: nn.Module, batch: Batch) -> None:
        with torch.no_grad(), attack_mode(model, "eval"):
            self.update(batch, model(batch.x))

    def update(self, batch: Batch, logits: Logits) -> None:
        """Let the clean ``logits`` (B, K) enter the memory of ``batch``."""
        memory = batch.memory[_PREDICTIONS]
        now = (1 - self.momentum) * logits.detach().softmax(1)
        write_rows(memory, batch.index, self.momentum * memory[batch.index] + now)


@dataclass(frozen=True)
class _Near:
    """``weight`` times the squared distance to what was predicted in the ``past`` (B, K)."""

    past: Tensor
    weight: float

    def __call__(self, logits: Logits) -> PerExample:
        return self.weight * (logits.softmax(1) - self.past).square().sum(1)

    def of(self, rows: Tensor) -> _Near:
        """The same for some rows of the batch: attacks may let go of those that have fallen."""
        return _Near(self.past[rows], self.weight)


def _past(batch: Batch) -> Tensor:
    """(B, K) ensembles that sum to 1; zeros where an image has never come."""
    rows = batch.memory[_PREDICTIONS][batch.index]
    return rows / rows.sum(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
