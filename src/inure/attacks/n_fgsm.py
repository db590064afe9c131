"""N-FGSM (de Jorge et al., 2022, arXiv:2202.01181): one step from strong noise, without projection."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..libraries import nn
from ..losses import cross_entropy
from ..models.modes import frozen
from ..noise import GeneratorNoise
from ..settings.config import Real, Settings
from ..threat import Linf
from ..types import Crafting, Criterion, Images, Labels, Noise
from .gradient import crafted_gradient


class NFGSM(Settings):
    """x_adv = clamp(z + step_size * sign of the gradient at z, 0, 1), where z = clamp(x + U(-k, k) epsilon, 0, 1).

    The noise is an augmentation as much as a start: nothing is projected back into the ball, and the gradient's sign
    stays whole. Far from the box the root mean square of the perturbation is sqrt(k^2 / 3 + 1) epsilon.

    For training only: a pixel may move by (noise + 1) epsilon, so the images leave the threat model, and an evaluation
    that meets such a perturbation stops.

    Note:
        From the authors' code: noise 2 and a step of epsilon on CIFAR-10, noise 1 on ImageNet, 3 on SVHN at 12/255 and
        4 for a wide net at 16/255. Their attack runs in train mode (``method.attack_mode=train``).
    """

    kind: Literal["n_fgsm"] = "n_fgsm"
    threat: Linf = Linf()
    """What the noise and the step are measured by; the images go further."""
    noise: Annotated[Real, Field(ge=0)] = 2
    """Radius of the noise in multiples of epsilon; 0 is FGSM."""
    step_size: Annotated[Real, Field(ge=0)] | None = None
    """In the units of epsilon. None: epsilon."""

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
        """As ``PGD.__call__``, but in [0, 1] alone and not in the ball. Passes: one forward and backward."""
        step_size = self.threat.epsilon if self.step_size is None else self.step_size
        around = self.threat.with_epsilon(self.noise * self.threat.epsilon)
        x_adv = around.random_start(x, noise or GeneratorNoise())
        with frozen(model):
            x_adv, grad = crafted_gradient(model, x_adv, x, y, loss, crafting)
        return self.threat.ascend(x_adv, grad, step_size).clamp(0, 1).detach()
