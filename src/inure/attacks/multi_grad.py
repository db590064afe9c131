"""MultiGrad (Golgooni et al., 2021, arXiv:2103.15476): one step along the signs on which several gradients agree."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ..libraries import nn, torch
from ..losses import cross_entropy
from ..models.modes import frozen
from ..noise import GeneratorNoise
from ..settings.config import Real, Settings, Whole
from ..settings.errors import UserError
from ..threat import Linf
from ..types import Crafting, Criterion, Images, Labels, Noise
from .gradient import crafted_gradient


class MultiGrad(Settings):
    """project(x + step_size * s), s the common sign of the gradients at ``samples`` random points of the ball, else 0.

    The step starts at the image itself. With the default step of 2 epsilon every agreed pixel ends at the ball's edge.

    Note:
        From the authors' code: 3 samples, all of which must agree, so that only pixels move whose gradient keeps its
        sign across the ball.
    """

    kind: Literal["multi_grad"] = "multi_grad"
    threat: Linf = Linf()
    samples: Annotated[Whole, Field(ge=1)] = 3
    """Random points, one gradient each."""
    agree: Annotated[Whole, Field(ge=1)] | None = None
    """How many signs must be the same, more than half; None: all."""
    step_size: Annotated[Real, Field(ge=0)] | None = None
    """In the units of epsilon. None: 2 epsilon."""

    @model_validator(mode="after")
    def _most_agree(self) -> Self:
        if self.agree is not None and not self.samples < 2 * self.agree <= 2 * self.samples:
            allowed = f"{self.samples // 2 + 1} to {self.samples}: more than half of the samples"
            raise UserError("agree", self.agree, allowed)
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
        """As ``PGD.__call__``. Passes: ``samples`` forwards and backwards."""
        step_size = 2 * self.threat.epsilon if self.step_size is None else self.step_size
        noise, votes = noise or GeneratorNoise(), torch.zeros_like(x)
        with frozen(model):
            for k in range(self.samples):
                _, grad = crafted_gradient(model, self.threat.random_start(x, noise), x, y, loss, crafting, k)
                votes += grad.sign()
        # a - b = 2a - samples, where a agree and none is zero
        agreed = votes.abs() >= 2 * (self.agree or self.samples) - self.samples
        return self.threat.project(self.threat.ascend(x, votes * agreed, step_size), x).detach()
