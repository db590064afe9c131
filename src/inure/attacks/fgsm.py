"""The fast gradient sign method (Goodfellow et al., 2015, arXiv:1412.6572): one step of the size of the ball."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..libraries import nn
from ..losses import cross_entropy
from ..settings.config import Real, Settings
from ..threat import Linf, ThreatModel
from ..types import Crafting, Criterion, Images, Labels, Noise
from .pgd import PGD


class FGSM(Settings):
    """project(x0 + step_size * sign of the gradient at x0); under L2 and L1 the steepest step of that norm."""

    kind: Literal["fgsm"] = "fgsm"
    threat: ThreatModel = Linf()
    step_size: Annotated[Real, Field(ge=0)] | None = None
    """In the units of epsilon. None: epsilon."""
    start: Literal["zero", "uniform"] = "zero"
    """``uniform`` with step_size 1.25 epsilon is RS-FGSM (Wong et al., 2020, arXiv:2001.03994)."""

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
        """As ``PGD.__call__``, with one step. Passes: one forward and backward."""
        step_size = self.threat.epsilon if self.step_size is None else self.step_size
        # model_construct: nothing to validate again, and epsilon may be a tensor of radii
        pgd = PGD.model_construct(threat=self.threat, steps=1, step_size=step_size, start=self.start)
        return pgd(model, x, y, loss=loss, crafting=crafting, noise=noise)
