"""ZeroGrad (Golgooni et al., 2021, arXiv:2103.15476): one large step that leaves out the smallest gradients."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..libraries import Tensor, nn, torch
from ..losses import cross_entropy
from ..models.modes import frozen
from ..noise import GeneratorNoise
from ..settings.config import Real, Settings
from ..threat import Linf
from ..types import Crafting, Criterion, Images, Labels, Noise
from .gradient import crafted_gradient


class ZeroGrad(Settings):
    """project(x0 + step_size * sign(g)), x0 random in the ball, where the ``quantile`` smallest |g| of an image are 0.

    Where a gradient is tiny its sign is noise, and a step of the size of the ball along noise is what nets overfit to
    when they are trained with one step.

    Note:
        From the authors' code: quantile 0.35 on CIFAR-10, 0.45 on CIFAR-100, 0.7 on SVHN, a step of 2 epsilon. They
        interpolate the quantile between two coordinates, here floor(quantile * (d - 1)) of d are left out, which
        differs by one at most. With quantile 0 it is RS-FGSM with a step of 2 epsilon.
    """

    kind: Literal["zero_grad"] = "zero_grad"
    threat: Linf = Linf()
    quantile: Annotated[Real, Field(ge=0, lt=1)] = 0.35
    """Share of an image's coordinates that do not step."""
    step_size: Annotated[Real, Field(ge=0)] | None = None
    """In the units of epsilon. None: 2 epsilon."""

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
        """As ``PGD.__call__``. Passes: one forward and backward."""
        step_size = 2 * self.threat.epsilon if self.step_size is None else self.step_size
        x_adv = self.threat.random_start(x, noise or GeneratorNoise())
        with frozen(model):
            x_adv, grad = crafted_gradient(model, x_adv, x, y, loss, crafting)
        return self.threat.project(self.threat.ascend(x_adv, self._large(grad), step_size), x).detach()

    def _large(self, grad: Tensor) -> Tensor:
        """The gradient with its smallest coordinates set to zero, image by image."""
        sizes = grad.abs().flatten(1)
        count = int(self.quantile * (sizes.shape[1] - 1))
        least = sizes.kthvalue(count + 1, dim=1).values.view(-1, 1, 1, 1)
        return torch.where(grad.abs() < least, 0.0, grad)
