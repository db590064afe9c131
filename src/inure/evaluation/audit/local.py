"""The loss around clean images: how linear it is, how its gradient turns, how much it changes at random points."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...attacks import input_gradient
from ...losses import cross_entropy, margin
from ...noise import CounterNoise
from ...types import Images, Labels
from .runs import Subject
from .watch import Watch

_STREAM = 0xA0D17
"""Of the random points; attacks have the checksum of their name."""
_TINY = 1e-12


@dataclass(frozen=True)
class Surroundings:
    """Of M examples, each (M,), on the CPU."""

    predicted: Tensor
    """Rise of the cross-entropy to the FGSM point by the gradient at the image."""
    rise: Tensor
    """The true rise."""
    cosine: Tensor
    """Of the gradients at the image and at a random point of the ball; 0 where one is zero."""
    instability: Tensor
    """Mean over random points of the ball of the relative change of the margin, at most 1."""


def surroundings(subject: Subject, points: int) -> Surroundings | None:
    """Look around every image that is attacked; None if there is none.

    Args:
        subject: The net and its examples.
        points: How many random points tell the instability.
    """

    def look(rows: Tensor) -> Surroundings:
        x, y, index = subject.batch(rows)
        noise = CounterNoise(subject.seed, index, _STREAM)
        return Surroundings(*_slopes(subject, x, y, noise), _instability(subject, x, y, noise, points))

    parts = subject.each(subject.attacked, look, "surroundings", points + 4)
    if not parts:
        return None
    names = ("predicted", "rise", "cosine", "instability")
    return Surroundings(*(torch.cat([getattr(part, name) for part in parts]).cpu() for name in names))


def _slopes(subject: Subject, x: Images, y: Labels, noise: CounterNoise) -> tuple[Tensor, Tensor, Tensor]:
    threat = subject.threat
    net = Watch(subject.model, y, cross_entropy)
    grad, loss, _ = input_gradient(net, x, y, cross_entropy)
    corner = threat.project(threat.ascend(x, grad, threat.epsilon), x)
    _, there, _ = input_gradient(net, corner, y, cross_entropy, backward=False)
    other, _, _ = input_gradient(net, threat.random_start(x, noise), y, cross_entropy)
    predicted = (grad.double() * (corner - x).double()).flatten(1).sum(1)
    # In float64: gradients of confident examples are so small that their squares vanish in float32
    cosine = torch.cosine_similarity(grad.double().flatten(1), other.double().flatten(1), eps=1e-300)
    return predicted, (there - loss).double(), cosine


def _instability(subject: Subject, x: Images, y: Labels, noise: CounterNoise, points: int) -> Tensor:
    with torch.no_grad():
        before = margin(subject.model(x), y, kappa=torch.inf)
        change = torch.zeros_like(before)
        for _ in range(points):
            after = margin(subject.model(subject.threat.random_start(x, noise)), y, kappa=torch.inf)
            change += (after - before).abs()
    return (change / points / before.abs().clamp_min(_TINY)).clamp_max(1)
