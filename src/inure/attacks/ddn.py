"""DDN, decoupled direction and norm (Rony et al., 2019, arXiv:1811.09600): a search for the least L2 norm."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from ..libraries import Tensor, nn, torch
from ..losses import cross_entropy, hard
from ..models.modes import frozen
from ..noise import GeneratorNoise
from ..settings.config import Real, Settings, Whole
from ..settings.errors import UserError
from ..threat import L2, unit
from ..types import Crafting, Criterion, Images, Labels, Noise
from .closest import Closest
from .gradient import input_gradient
from .standing import Standing

_LAST_STEP = 0.01
_EVERY = 8
"""Steps between two looks at who is done; in the first ones it looks more often."""


class DDN(Settings):
    """delta <- radius * unit(delta + step_k * unit(grad)): the gradient turns it, the verdict sets the radius.

    The radius is multiplied by 1 - gamma where the point is misclassified and by 1 + gamma where it is not, so that it
    settles at the boundary. step_k falls from 1 to 0.01 along a cosine. x + delta is clamped to [0, 1], and delta is
    what is left of it.

    Note:
        A zero gradient is replaced by one random direction for the whole run, in the official code by a new one at
        each step. The move after the last look, which nobody sees, is not made.
    """

    kind: Literal["ddn"] = "ddn"
    threat: L2 = L2()
    steps: Annotated[Whole, Field(ge=1)] = 100
    gamma: Annotated[Real, Field(gt=0, lt=1)] = 0.05
    first_radius: Annotated[Real, Field(gt=0)] = 1.0
    levels: Annotated[Whole, Field(ge=2)] | None = None
    """Round every point to so many grey levels, 256 for images that must be saved in bytes. None: no rounding."""
    stop_at_epsilon: bool = True
    """Whether an example is done with its first misclassified point within epsilon: all that a verdict asks for."""

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
        """Misclassified images within epsilon.

        Args:
            model: Images in [0, 1] to logits.
            x: (B, C, H, W) in [0, 1].
            y: (B,) classes or (B, K) probabilities.
            loss: (logits, y) to (B,); what is climbed.
            crafting: Must be None.
            noise: For examples without a gradient; torch's generator by default.

        Returns:
            (B, C, H, W): the misclassified point if one was found within epsilon, else ``x``. Passes: ``steps``
            forwards and ``steps`` - 1 backwards of the examples that stand.
        """
        if crafting is not None:
            raise UserError("crafting", crafting, "none with ddn")
        closest = Closest(self.threat, x, hard(y), stop_at_epsilon=self.stop_at_epsilon)
        self._search(model, closest, y, loss, noise or GeneratorNoise())
        return closest.within_epsilon()

    def nearest(
        self, model: nn.Module, x: Images, y: Labels, *, loss: Criterion = cross_entropy, noise: Noise | None = None
    ) -> Images:
        """The closest misclassified points found, at whatever distance; ``x`` itself where there is none.

        Args:
            model: As in ``__call__``.
            x: As there.
            y: As there.
            loss: As there.
            noise: As there.

        Returns:
            (B, C, H, W). Passes: at most ``steps`` forwards and ``steps`` - 1 backwards.
        """
        closest = Closest(self.threat, x, hard(y), stop_at_epsilon=False)
        self._search(model, closest, y, loss, noise or GeneratorNoise())
        return closest.x_adv

    def _search(self, model: nn.Module, closest: Closest, y: Labels, loss: Criterion, noise: Noise) -> None:
        x, y = closest.x, y.detach()
        x_adv, rows, real = x, torch.arange(len(x), device=x.device), len(x)
        radius = torch.full_like(closest.distance, self.first_radius)
        # In the farthest corner of [0, 1] there is nothing more to gain
        largest = torch.maximum(x, 1 - x).flatten(1).norm(dim=1)
        spare = noise.normal(x)
        with frozen(model):
            for k in range(self.steps):
                last = k == self.steps - 1
                grad, _, logits = input_gradient(model, x_adv, y, loss, backward=not last)
                fooled = closest.offer(x_adv, logits, rows)
                if last:
                    return
                radius = torch.minimum(radius * torch.where(fooled, 1 - self.gamma, 1 + self.gamma), largest)
                x_adv = self._move(x_adv, x, grad, spare, radius, k)
                if (k + 1) & k == 0 or k % _EVERY == 0:
                    left = Standing(closest.distance[rows] > closest.enough[rows], real)
                    if not left.size:
                        return
                    if left.smaller:
                        x_adv, x, y, spare, radius, largest, rows = left.of(x_adv, x, y, spare, radius, largest, rows)
                        real = left.size

    def _move(self, x_adv: Images, x: Images, grad: Tensor, spare: Tensor, radius: Tensor, k: int) -> Images:
        step = _LAST_STEP + (1 - _LAST_STEP) * (1 + math.cos(math.pi * k / self.steps)) / 2
        still = grad.flatten(1).abs().amax(1) == 0
        direction = unit(torch.where(still.view(-1, 1, 1, 1), spare, grad))
        x_adv = x + radius.view(-1, 1, 1, 1) * unit(x_adv - x + step * direction)
        if self.levels is not None:
            x_adv = torch.round(x_adv * (self.levels - 1)) / (self.levels - 1)
        return x_adv.clamp(0, 1)
