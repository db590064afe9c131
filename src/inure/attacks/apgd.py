"""Auto-PGD (Croce and Hein, 2020, arXiv:2003.01690): PGD whose step size follows what each example does."""

from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..config import Real, Settings, Whole
from ..errors import UserError
from ..losses import cross_entropy
from ..models.modes import frozen
from ..noise import GeneratorNoise
from ..threat import L2, Linf
from ..types import Crafting, Criterion, Images, Labels, Noise
from .gradient import input_gradient
from .worst import Worst

_MOMENTUM = 0.75


class APGD(Settings):
    """Steps with momentum; at checkpoints an example that rises too seldom halves its step and returns to its best.

    z = project(x_k + step * direction);  x_(k+1) = project(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_(k-1))).
    Checkpoints: after 22 % of the steps, then at intervals that shrink by 3 % down to 6 %. A step size is halved
    if less than ``rho`` of the interval's steps raised the loss, or if it was not halved the last time and the
    best loss has not moved since. Two steps from the image itself are what *Seasoning model soups* (Croce et al.,
    2023, arXiv:2302.10164) trains with.

    Note:
        Linf and L2. Every example has its own step size and its own best point, so that the loss must be per
        example; a public trainer that averages it first loses that. The gradient at the last point, which nobody
        uses, is not computed.
    """

    kind: Literal["apgd"] = "apgd"
    threat: Annotated[Linf | L2, Field(discriminator="kind")] = Linf()
    steps: Annotated[Whole, Field(ge=1)] = 10
    step_size: Annotated[Real, Field(ge=0)] | None = None
    """The first one, in the units of epsilon. None: 2 * epsilon."""
    start: Literal["sphere", "uniform", "zero"] = "sphere"
    """``sphere``: at distance epsilon in a random direction, then clamped to [0, 1]."""
    restarts: Annotated[Whole, Field(ge=1)] = 1
    rho: Annotated[Real, Field(ge=0, le=1)] = 0.75
    eot_samples: Annotated[Whole, Field(ge=1)] = 1
    """Forwards whose gradients are averaged, for nets that draw at random (EoT, Athalye et al., 2018)."""
    keep: Literal["loss", "worst"] = "loss"
    """Which point is returned: the one of highest loss, or a misclassified one first (for verdicts)."""

    @model_validator(mode="after")
    def _restarts_differ(self) -> Self:
        if self.restarts > 1 and self.start == "zero":
            raise UserError("restarts", self.restarts, "1 with start=zero: all would be the same", "start=sphere")
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
        """As ``PGD.__call__``. Passes a restart: ``steps + 1`` forwards and ``steps`` backwards, each times EoT."""
        noise = noise or GeneratorNoise()
        worst = Worst(x, y, fooled_first=self.keep == "worst")
        with frozen(model):
            for _ in range(self.restarts):
                self._climb(model, x, y, loss, crafting, self._start(x, noise), worst)
        return worst.x_adv

    def _climb(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        loss: Criterion,
        crafting: Crafting | None,
        x_adv: Images,
        worst: Worst,
    ) -> None:
        step_size = self._first_step(x)
        length = checkpoint = max(int(0.22 * self.steps), 1)
        if crafting is not None:
            x_adv = crafting.step(0, x_adv, x)
        grad, values, logits = input_gradient(model, x_adv, y, loss, self.eot_samples)
        worst.offer(x_adv, values, logits)
        before, x_best, grad_best, loss_best = x_adv, x_adv, grad, values
        at_checkpoint, rises, halved = values, torch.zeros_like(values), torch.ones_like(values, dtype=torch.bool)
        for k in range(1, self.steps + 1):
            target = self.threat.project(self.threat.ascend(x_adv, grad, step_size), x)
            share = _MOMENTUM if k > 1 else 1.0
            moved = x_adv + share * (target - x_adv) + (1 - share) * (x_adv - before)
            before, x_adv = x_adv, self.threat.project(moved, x)
            if crafting is not None and k < self.steps:
                x_adv = crafting.step(k, x_adv, x)
            last, previous = k == self.steps, values
            grad, values, logits = input_gradient(model, x_adv, y, loss, self.eot_samples, backward=not last)
            worst.offer(x_adv, values, logits)
            if last:
                return
            rises = rises + (values > previous)
            better = values > loss_best
            x_best, grad_best = _where(better, x_adv, x_best), _where(better, grad, grad_best)
            loss_best = torch.where(better, values, loss_best)
            if k == checkpoint:
                stuck = ~halved & (loss_best <= at_checkpoint)
                halved = (rises < self.rho * length) | stuck
                step_size = torch.where(halved, step_size / 2, step_size)
                x_adv, grad = _where(halved, x_best, x_adv), _where(halved, grad_best, grad)
                at_checkpoint, rises = loss_best, torch.zeros_like(rises)
                length = max(length - max(int(0.03 * self.steps), 1), max(int(0.06 * self.steps), 1))
                checkpoint += length

    def _first_step(self, x: Images) -> Tensor:
        first = 2 * self.threat.epsilon if self.step_size is None else self.step_size
        return first * torch.ones(len(x), device=x.device, dtype=x.dtype)

    def _start(self, x: Images, noise: Noise) -> Images:
        if self.start == "uniform":
            return self.threat.random_start(x, noise)
        if self.start == "zero":
            return x.clone()
        away = 2 * noise.uniform(x) - 1 if isinstance(self.threat, Linf) else noise.normal(x)
        norm = self.threat.distance(away, torch.zeros_like(away)).clamp_min(1e-12)
        scale = self.threat.epsilon / norm
        return self.threat.project(x + scale.view(-1, 1, 1, 1) * away, x)


def _where(mask: Tensor, yes: Images, no: Images) -> Images:
    return torch.where(mask.view(-1, 1, 1, 1), yes, no)
