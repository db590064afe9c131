"""Values that depend on training progress in [0, 1]: factors of the learning rate, of epsilon and of the steps.

Every milestone is a fraction of training, so a recipe stays right when its number of epochs changes.
"""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .settings.config import Real, Settings
from .settings.errors import UserError

Share = Annotated[Real, Field(ge=0, le=1)]


class Constant(Settings):
    """Always 1, after a linear warm-up from 0."""

    kind: Literal["constant"] = "constant"
    warmup: Share = 0.0

    def at(self, progress: float) -> float:
        """The factor at ``progress``."""
        return warm(progress, self.warmup)


class Piecewise(Settings):
    """1, then multiplied by ``factor`` at each milestone (Rice et al., 2020: halfway and at three quarters)."""

    kind: Literal["piecewise"] = "piecewise"
    milestones: list[Share] = [0.5, 0.75]
    factor: Annotated[Real, Field(gt=0)] = 0.1
    warmup: Share = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> "Piecewise":
        if self.milestones != sorted(self.milestones):
            raise UserError("milestones", self.milestones, "fractions of training in rising order")
        return self

    def at(self, progress: float) -> float:
        """The factor at ``progress``."""
        passed = sum(progress >= milestone for milestone in self.milestones)
        return warm(progress, self.warmup) * self.factor**passed


class Cosine(Settings):
    """Half a cosine from 1 down to ``final``, after a linear warm-up from 0."""

    kind: Literal["cosine"] = "cosine"
    warmup: Share = 0.0
    final: Annotated[Real, Field(ge=0)] = 0.0

    def at(self, progress: float) -> float:
        """The factor at ``progress``."""
        if progress < self.warmup:
            return progress / self.warmup
        done = (progress - self.warmup) / max(1 - self.warmup, 1e-12)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


class OneCycle(Settings):
    """Linear from 0 up to 1 at ``peak`` and down to 0 (the cyclic schedule of Wong et al., 2020).

    Momentum stays as it is; torch's ``CyclicLR``, which those papers used, also cycles it.
    """

    kind: Literal["one_cycle"] = "one_cycle"
    peak: Annotated[Real, Field(gt=0, lt=1)] = 0.4

    def at(self, progress: float) -> float:
        """The factor at ``progress``."""
        return progress / self.peak if progress < self.peak else (1 - progress) / (1 - self.peak)


class Ramp(Settings):
    """Linear from ``start`` at progress ``begin`` to 1 at ``until``; constant outside."""

    kind: Literal["ramp"] = "ramp"
    start: Annotated[Real, Field(ge=0)] = 0.0
    begin: Share = 0.0
    until: Share = 0.5

    @model_validator(mode="after")
    def _ordered(self) -> "Ramp":
        if self.until < self.begin:
            raise UserError("until", self.until, f"a fraction of training >= begin ({self.begin})")
        return self

    def at(self, progress: float) -> float:
        """The factor at ``progress``."""
        if progress >= self.until:
            return 1.0
        if progress <= self.begin:
            return self.start
        return self.start + (1 - self.start) * (progress - self.begin) / (self.until - self.begin)


Schedule = Annotated[Constant | Piecewise | Cosine | OneCycle, Field(discriminator="kind")]
"""Of the learning rate."""
Factor = Annotated[Ramp | Piecewise, Field(discriminator="kind")]
"""Of epsilon and of the number of steps."""


def warm(progress: float, warmup: float) -> float:
    """Linear from 0 to 1 at ``warmup``, then 1; 1 throughout where there is none."""
    return progress / warmup if progress < warmup else 1.0
