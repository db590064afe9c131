"""N-FGSM (de Jorge et al., 2022, arXiv:2202.01181): one step from strong noise, without projection."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from ..config import Real, Settings
from ..losses import cross_entropy
from ..models.modes import frozen
from ..noise import GeneratorNoise
from ..threat import Linf, per_image
from ..types import Crafting, Criterion, Images, Labels, Noise
from .gradient import input_gradient, is_blind


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
        x_adv = x
        if self.noise:
            radius = self.noise * per_image(self.threat.epsilon, x)
            x_adv = (x + radius * (2 * (noise or GeneratorNoise()).uniform(x) - 1)).clamp(0, 1)
        with frozen(model):
            if crafting is not None:
                x_adv = crafting.step(0, x_adv, x)
            if not is_blind(crafting):
                grad, _, _ = input_gradient(model, x_adv, y, loss)
                x_adv = torch.clamp(x_adv + per_image(step_size, x) * grad.sign(), 0, 1)
        return x_adv.detach()
