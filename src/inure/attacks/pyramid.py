"""Perturbations at several scales (Pyramid adversarial training, Herrmann et al., 2022, arXiv:2111.15121)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from ..libraries import F, Tensor, nn, torch
from ..losses import cross_entropy
from ..models.modes import frozen
from ..noise import GeneratorNoise
from ..settings.config import Real, Settings, Whole
from ..settings.errors import UserError
from ..threat import Linf
from ..types import Crafting, Criterion, Images, Labels, Noise
from .gradient import crafted_gradient


class Pyramid(Settings):
    """x_adv = clamp(x + sum_s scalar_s * up(delta_s), 0, 1), where delta_s has one number a cell, at most epsilon.

    All levels climb together, ``steps`` sign steps from one input gradient each: the gradient of a cell is that of
    its pixels, summed, where the clamp lets it through.

    For training only: a pixel may move by epsilon times the sum of the scalars, so the images leave Linf(epsilon),
    and an evaluation that meets such a perturbation stops.

    Note:
        The paper's code has cells of 32, 16 and 1 pixels in images of 224 with scalars 20, 10 and 1, 5 steps, and
        epsilon 6/255 in images of [-1, 1], which is 3/255 here. It clamps after each level, here once after the sum.
    """

    refuses: ClassVar[dict[str, str]] = {
        "perturbation_masking": "perturbs cells of several sizes, which patches cannot reset"
    }
    """Tricks that do not work with it, and why."""

    kind: Literal["pyramid"] = "pyramid"
    threat: Linf = Linf(epsilon=3 / 255)
    """Of a level, before its scalar; the images go further."""
    steps: Annotated[Whole, Field(ge=1)] = 5
    step_size: Annotated[Real, Field(ge=0)] | None = None
    """Of a level, before its scalar, in the units of epsilon. None: epsilon / 6, the paper's code's ratio."""
    cells: Annotated[list[Annotated[Whole, Field(ge=1)]], Field(min_length=1)] = [32, 16, 1]
    """The side of each level's square cells in pixels; it must divide height and width. 1 is pixel by pixel."""
    scalars: list[Annotated[Real, Field(gt=0)]] = [20, 10, 1]
    """What each level is multiplied by, one number for each of ``cells``."""
    start: Literal["zero", "uniform"] = "zero"
    """``uniform``: every cell anywhere in [-epsilon, epsilon]."""

    @model_validator(mode="after")
    def _one_scalar_a_level(self) -> Pyramid:
        if len(self.scalars) != len(self.cells):
            raise UserError("scalars", self.scalars, f"{len(self.cells)} numbers, one for each of cells {self.cells}")
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
        """As ``PGD.__call__``, but in [0, 1] alone and not in the ball. Passes: ``steps`` forwards and backwards.

        Raises:
            UserError: If a cell does not divide the images.
        """
        self._check(x)
        epsilon, step_size = _per_image(self.threat.epsilon, x), _per_image(self._step_size(), x)
        levels = self._start(x, epsilon, noise or GeneratorNoise())
        with frozen(model):
            for k in range(self.steps):
                moved = self._moved(x, levels)
                _, grad = crafted_gradient(model, moved.clamp(0, 1), x, y, loss, crafting, k)
                grad = grad * ((moved >= 0) & (moved <= 1))  # through the clamp; at 0 and 1 there is a way inside
                # The mean over a cell has the sign of the sum
                signs = [F.avg_pool2d(grad, side).sign() for side in self.cells]
                pairs = zip(levels, signs, strict=True)
                levels = [(delta + step_size * sign).clamp(-epsilon, epsilon) for delta, sign in pairs]
        return self._moved(x, levels).clamp(0, 1).detach()

    def _start(self, x: Images, epsilon: Tensor, noise: Noise) -> list[Tensor]:
        """(B, C, H / side, W / side) for each level."""
        height, width = x.shape[2:]
        zeros = [x.new_zeros(*x.shape[:2], height // side, width // side) for side in self.cells]
        return zeros if self.start == "zero" else [epsilon * (2 * noise.uniform(delta) - 1) for delta in zeros]

    def _moved(self, x: Images, levels: list[Tensor]) -> Tensor:
        """``x`` and all levels, not clamped."""
        for scalar, delta in zip(self.scalars, levels, strict=True):
            x = x + scalar * F.interpolate(delta, size=x.shape[2:], mode="nearest")
        return x

    def _step_size(self) -> float | Tensor:
        return self.threat.epsilon / 6 if self.step_size is None else self.step_size

    def _check(self, x: Images) -> None:
        height, width = x.shape[2:]
        wrong = [side for side in self.cells if height % side or width % side]
        if wrong:
            fitting = [str(side) for side in range(1, height + 1) if height % side == width % side == 0]
            raise UserError(
                "method.attack.cells", wrong, f"divisors of {height} x {width} pixels: {' | '.join(fitting)}"
            )


def _per_image(value: float | Tensor, x: Images) -> Tensor:
    """(B, 1, 1, 1) or (), on the device without waiting for it."""
    if isinstance(value, Tensor):
        return value.to(x).view(-1, 1, 1, 1)
    return torch.full((), float(value), device=x.device, dtype=x.dtype)
