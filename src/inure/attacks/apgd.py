"""Auto-PGD (Croce and Hein, 2020, arXiv:2003.01690): PGD whose step size follows what each example does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ..libraries import Tensor, nn, torch
from ..losses import cross_entropy
from ..models.modes import frozen
from ..noise import GeneratorNoise
from ..settings.config import Real, Settings, Whole
from ..settings.errors import UserError
from ..threat import L1, Geometry, Linf, ThreatModel, at_distance
from ..types import Crafting, Criterion, Images, Labels, Noise
from .apgd_steps import Halving, Sparse
from .climb import Climb
from .standing import Standing
from .worst import Worst

_LARGE_RADII = ((3, 0.3), (2, 0.3))
"""Factors of epsilon, and their shares of the steps; the rest is at epsilon."""


class APGD(Settings):
    """Steps with momentum; at checkpoints an example that rises too seldom halves its step and returns to its best.

    z = project(x_k + step * direction);  x_(k+1) = project(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_(k-1))).
    Checkpoints: after 22 % of the steps, then at intervals that shrink by 3 % down to 6 %. A step size is halved
    if less than ``rho`` of the interval's steps raised the loss, or if it was not halved the last time and the
    best loss has not moved since. Two steps from the image itself are what *Seasoning model soups* (Croce et al.,
    2023, arXiv:2302.10164) trains with.

    L1 (Croce and Hein, 2021, arXiv:2103.01208): no momentum, steps of which the sparsity adapts, see ``Sparse``.

    Note:
        Every example has its own step size and its own best point, so that the loss must be per example; a public
        trainer that averages it first loses that. The gradient at the last point, which nobody uses, is not
        computed. With ``keep="worst"`` an example is finished at its first misclassified point: it leaves the batch
        (see ``Climb``), and the next restart; the reference climbs on and returns the last such point.
    """

    kind: Literal["apgd"] = "apgd"
    threat: ThreatModel = Linf()
    steps: Annotated[Whole, Field(ge=1)] = 10
    step_size: Annotated[Real, Field(ge=0)] | None = None
    """The first one, in the units of epsilon. None: 2 * epsilon; L1: epsilon."""
    start: Literal["sphere", "uniform", "zero"] = "sphere"
    """``sphere``: at distance epsilon in a random direction, then clamped to [0, 1]; L1: Gaussian noise, projected."""
    restarts: Annotated[Whole, Field(ge=1)] = 1
    rho: Annotated[Real, Field(ge=0, le=1)] = 0.75
    """Least share of rising steps; not in L1."""
    eot_samples: Annotated[Whole, Field(ge=1)] = 1
    """Forwards whose gradients are averaged, for nets that draw at random (EoT, Athalye et al., 2018)."""
    keep: Literal["loss", "worst"] = "loss"
    """Which point is returned: the one of highest loss, or a misclassified one first (for verdicts)."""
    large_radii: bool = False
    """L1: 30 % of the steps in 3 epsilon, 30 % in 2 epsilon, the rest in epsilon, each from the best point so far."""

    @model_validator(mode="after")
    def _restarts_differ(self) -> Self:
        if self.restarts > 1 and self.start == "zero":
            raise UserError("restarts", self.restarts, "1 with start=zero: all would be the same", "start=sphere")
        return self

    @model_validator(mode="after")
    def _large_radii_are_for_l1(self) -> Self:
        if self.large_radii and not isinstance(self.threat, L1):
            raise UserError("large_radii", True, f"false under {self.threat.kind}: the schedule is that of L1")
        return self

    def __call__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        *,
        loss: Criterion = cross_entropy,
        crafting: Crafting | None = None,
        noise: Noise | None = None,
    ) -> Images:
        """As ``PGD.__call__``. Passes a restart: ``steps + 1`` forwards and ``steps`` backwards, each times EoT.

        With ``large_radii`` three forwards more in place of one. With ``keep="worst"`` fewer: see the note.
        """
        return self.search(model, x, y, loss=loss, crafting=crafting, noise=noise).x_adv

    def search(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        *,
        loss: Criterion = cross_entropy,
        crafting: Crafting | None = None,
        noise: Noise | None = None,
        real: int | None = None,
    ) -> Worst:
        """As ``__call__``; also says who is misclassified. Of the rows only the first ``real`` are no copies."""
        noise = noise or GeneratorNoise()
        for_verdict = self.keep == "worst"
        worst = Worst(x, y, fooled_first=for_verdict, final=for_verdict)
        left = Standing(~worst.fooled, real) if for_verdict and crafting is None else None
        with frozen(model):
            for restart in range(self.restarts):
                if restart and left is not None:
                    left = Standing(~worst.fooled, real)
                    if not left.size:
                        break
                self._restart(model, x, y, loss, crafting, noise, worst, left)
        return worst

    def _restart(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        loss: Criterion,
        crafting: Crafting | None,
        noise: Noise,
        worst: Worst,
        left: Standing | None,
    ) -> None:
        threat, step_size = self.threat, self.step_size
        if left is not None:
            (x, y), threat, loss, noise = left.of(x, y), left.threat(threat), left.loss(loss), left.noise(noise)
            step_size = left.number(step_size)
        phases = list(self._phases(threat, step_size))
        x_adv = self._start(x, phases[0][0], noise)
        for number, (ball, first_step, steps) in enumerate(phases, start=1):
            climb = Climb(
                model,
                x,
                y,
                loss=loss,
                threat=ball,
                rule=self._rule(_per_example(first_step, x), steps),
                samples=self.eot_samples,
                crafting=crafting,
                # Points of a larger ball do not count
                worst=worst if number == len(phases) else None,
                left=left,
            )
            x_adv = climb.run(x_adv if number == 1 else ball.project(x_adv, x), steps)

    def _phases(
        self, threat: Geometry, step_size: float | Tensor | None
    ) -> Iterator[tuple[Geometry, float | Tensor, int]]:
        """(ball, first step, number of steps) of each part of the run."""
        alpha = 1 if isinstance(threat, L1) else 2
        first_step = alpha * threat.epsilon if step_size is None else step_size
        rest = self.steps
        for factor, share in _LARGE_RADII if self.large_radii else ():
            steps = min(math.ceil(share * self.steps), rest - 1)
            if steps:
                yield threat.with_epsilon(factor * threat.epsilon), factor * first_step, steps
            rest -= steps
        yield threat, first_step, rest

    def _rule(self, first_step: Tensor, steps: int) -> Halving | Sparse:
        if isinstance(self.threat, L1):
            return Sparse(first_step, steps, from_start=self.large_radii)
        return Halving(first_step, steps, self.rho)

    def _start(self, x: Images, threat: Geometry, noise: Noise) -> Images:
        if self.start == "uniform":
            return threat.random_start(x, noise)
        if self.start == "zero":
            return x.clone()
        if isinstance(threat, L1):
            return threat.project(x + noise.normal(x), x)
        return threat.project(at_distance(threat, threat.epsilon, x, noise), x)


def _per_example(value: float | Tensor, x: Images) -> Tensor:
    return value * torch.ones(len(x), device=x.device, dtype=x.dtype)
