"""GradAlign (Andriushchenko and Flammarion, 2020, arXiv:2007.02617): input gradients that agree within the ball."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..attacks.gradient import cosines
from ..libraries import Tensor, nn, torch
from ..models.domains import in_domain
from ..models.modes import AttackMode, attack_mode
from ..noise import GeneratorNoise
from ..settings.config import Real, Settings
from ..types import Criterion, Images, Labels, PerExample
from .penalty import Outer


class GradAlign(Settings):
    """weight * (1 - cos(g(x), g(x0))), g the input gradient of the criterion, x0 a random point of the ball around x.

    Where the two agree the loss is linear within the ball, and one step of an attack is as good as many: single-step
    training then does not overfit to its own step.

    Note:
        As in the official code g(x) is detached, so that the gradient of the weights comes through g(x0) alone, and
        images with a zero gradient are left out of the mean. There the noise is not clamped to [0, 1]; here x0 is a
        point of the threat model. There these passes also update BatchNorm's running statistics; here they do not.
        The authors' weight on CIFAR-10 follows 0.2 * 10^((255 epsilon - 8) / 8), on SVHN
        2.5 * 1.265^((255 epsilon - 8) / 4) (fitted to the values that they list). It differentiates twice:
        two forwards, a backward to the images, and a second that is part of the graph of the update. Of a net with
        domains it is the robust one, through which the attack goes.
    """

    eager: ClassVar[bool] = True
    needs_attack: ClassVar[bool] = True

    kind: Literal["grad_align"] = "grad_align"
    weight: Annotated[Real, Field(ge=0)] = 0.2
    mode: AttackMode = "train_frozen_stats"
    """The net's mode during these passes."""

    def __call__(self, outer: Outer) -> PerExample:
        """(B,); between 0 and twice the weight where no gradient is zero."""
        x, y = outer.batch.x, outer.batch.y
        if self.weight == 0 or outer.attack is None:  # none in a phase of clean images
            return x.new_zeros(len(x))
        model = in_domain(outer.model, getattr(outer.method, "robust", None))
        x0 = outer.attack.threat.random_start(x, GeneratorNoise())
        with attack_mode(model, self.mode):
            at_image = _gradient(model, x, y, outer.criterion, again=False).flatten(1)
            nearby = _gradient(model, x0, y, outer.criterion, again=True).flatten(1)
        cosine, there = cosines(at_image, nearby)
        away = torch.where(there, 1 - cosine, 0.0)
        return self.weight * away * (len(x) / there.sum().clamp_min(1))


def _gradient(model: nn.Module, x: Images, y: Labels, criterion: Criterion, *, again: bool) -> Tensor:
    """The input gradient, (B, C, H, W); ``again``: to be differentiated again."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    x = x.detach().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention cannot be differentiated twice
        (grad,) = torch.autograd.grad(criterion(model(x), y).sum(), x, create_graph=again)
    return grad if again else grad.detach()
