"""How linear the loss is around images: gradient alignment, and the error of the linear model.

Both fall apart at catastrophic overfitting, before or with the accuracy under PGD.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..attacks.gradient import cosines, input_gradient
from ..libraries import Tensor, nn, torch
from ..losses import cross_entropy
from ..models.modes import attack_mode, frozen
from ..settings.config import Real, Whole
from ..types import Criterion, Images, Labels, Noise, PerExample
from .measure import Measured, Probe


def gradient_alignment(
    model: nn.Module, x: Images, y: Labels, *, epsilon: float, noise: Noise, criterion: Criterion = cross_entropy
) -> Tensor:
    """The mean over the images of cos(grad l(x), grad l(x + eta)), eta uniform in [-epsilon, epsilon], a 0-d tensor.

    1 where the loss is linear (GradAlign, Andriushchenko and Flammarion, 2020, arXiv:2007.02617). Images with a zero
    gradient at one of the two do not count; 1 if none is left, since a constant loss is linear.

    Args:
        model: Images to logits; looked at in eval mode and left as found.
        x: (B, C, H, W) in [0, 1].
        y: (B,) or (B, K).
        epsilon: In pixel units. As in the authors' code x + eta is not clipped to [0, 1].
        noise: ``CounterNoise(seed, index)`` for the same eta at every look.
        criterion: (logits, y) to (B,).
    """
    with attack_mode(model, "eval"), frozen(model):
        here, _, _ = input_gradient(model, x, y, criterion)
        there, _, _ = input_gradient(model, x + epsilon * (2 * noise.uniform(x) - 1), y, criterion)
    aligned, nonzero = cosines(here.flatten(1), there.flatten(1))
    counted = nonzero.sum()
    return torch.where(counted > 0, aligned.sum() / counted.clamp_min(1), 1)


def linearity_error(
    model: nn.Module, x: Images, x_adv: Images, y: Labels, *, criterion: Criterion = cross_entropy
) -> PerExample:
    """|l(x + d) - l(x) - <d, grad l(x)>| with d = x_adv - x, per image: 0 where the loss is linear.

    The quantity whose maximum over d local linearity regularization (Qin et al., 2019, arXiv:1907.02610) holds down.

    Args:
        model: Images to logits; looked at in eval mode and left as found.
        x: (B, C, H, W) in [0, 1].
        x_adv: (B, C, H, W), what an attack made of them.
        y: (B,) or (B, K).
        criterion: (logits, y) to (B,).
    """
    with attack_mode(model, "eval"), frozen(model):
        grad, here, _ = input_gradient(model, x, y, criterion)
        with torch.no_grad():
            there = criterion(model(x_adv), y)
    return (there - here - ((x_adv - x) * grad).flatten(1).sum(1)).abs()


class Alignment(Measured):
    """Cosine of the input gradients at an image and at a random point around it, and the error of linear prediction."""

    names: ClassVar[tuple[str, ...]] = ("gradient_alignment", "linearity_error")

    kind: Literal["alignment"] = "alignment"
    examples: Annotated[Whole, Field(ge=1)] = 128
    epsilon: Annotated[Real, Field(gt=0)] | None = None
    """Of the random point, in pixel units: half the side of a box. None: that of the attack at the moment, else of the
    evaluation; under L2 and L1 it has to be given."""

    def __call__(self, probe: Probe) -> dict[str, float]:
        """``gradient_alignment``: 1 where the loss is linear. ``linearity_error``: mean, at the attack's images."""
        batch, noise = probe.batch(self.examples)
        threat = probe.recipe.evaluation.threat if probe.attack is None else probe.attack.threat
        epsilon = threat.epsilon if self.epsilon is None else self.epsilon
        aligned = gradient_alignment(probe.model, batch.x, batch.y, epsilon=epsilon, noise=noise)
        x_adv = probe.attacked(batch, noise)
        error = linearity_error(probe.model, batch.x, x_adv, batch.y).mean()
        return {"gradient_alignment": float(aligned), "linearity_error": float(error)}
