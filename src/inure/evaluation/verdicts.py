"""One batch of an evaluation: craft, check the perturbation, judge by a fresh forward.

Batches are padded to powers of two, at least 8, so that a verdict does not depend on how many examples happen to
be left: a batch of one takes other kernels than a batch of eight, and differs in the last bits.
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..noise import CounterNoise
from ..threat import Geometry
from ..types import Images
from .suites import Member

TOLERANCE = 1e-6
"""How far, in float64, a perturbation may exceed epsilon."""
_SMALLEST = 8


class Metered(nn.Module):
    """A net that counts the examples that went forward, and back, through it."""

    def __init__(self, net: nn.Module, mode: object = None) -> None:
        super().__init__()
        self.net, self.mode = net, mode
        self.forwards = self.backwards = 0

    def forward(self, x: Images) -> Tensor:
        """The logits, in float32; the mode is passed on only if one was asked for."""
        self.forwards += len(x)
        logits = self.net(x) if self.mode is None else self.net(x, mix=self.mode)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits.float()

    def _count(self, grad: Tensor) -> None:
        self.backwards += len(grad)


@dataclass(frozen=True)
class Verdicts:
    """What one attack did to B examples. All tensors on the CPU."""

    x_adv: Images
    prediction: Tensor
    """(B,) int64; -1 where a logit was not finite, which counts as wrong."""
    confidence: Tensor
    """(B,) probability of the predicted class."""
    distance: Tensor
    """(B,) float64, in the norm of the threat."""
    forwards: int
    backwards: int
    seconds: float


def judge(
    model: Metered,
    x: Images,
    y: Tensor,
    index: Tensor,
    member: Member | None,
    *,
    threat: Geometry,
    seed: int,
    stream: int,
) -> Verdicts:
    """Attack B examples (or none: the clean verdict) and judge what comes back.

    Args:
        model: In eval mode, frozen.
        x: (B, C, H, W) in [0, 1].
        y: (B,) classes.
        index: (B,) rows of the data set, the counters of the noise.
        member: The attack; None for the clean images.
        threat: Against which the perturbation is checked.
        seed: Of the evaluation.
        stream: Of the attack within the suite.

    Raises:
        RuntimeError: If the attack left the threat model or [0, 1]: then its result would be worthless.
    """
    begin, size = time.perf_counter(), len(x)
    forwards, backwards = model.forwards, model.backwards
    padded, labels, counters = (_pad(t) for t in (x, y, index))
    x_adv = padded
    if member is not None:
        noise = CounterNoise(seed, counters, stream)
        x_adv = member.attack(model, padded, labels, loss=member.loss, noise=noise)
    with torch.no_grad():
        logits = model(x_adv)
    confidence, prediction = logits.softmax(1).max(1)
    prediction = torch.where(logits.isfinite().all(1), prediction, -1)
    x_adv = x_adv[:size]
    distance = threat.distance(x_adv.double(), x.double())
    _refuse_invalid(x_adv, distance, threat, member)
    return Verdicts(
        x_adv.cpu(),
        prediction[:size].cpu(),
        confidence[:size].cpu(),
        distance.cpu(),
        # padding is our own doing: it is not counted
        round((model.forwards - forwards) * size / len(padded)),
        round((model.backwards - backwards) * size / len(padded)),
        time.perf_counter() - begin,
    )


def padded_size(size: int) -> int:
    """The next power of two, at least 8."""
    return max(_SMALLEST, 1 << (size - 1).bit_length())


def _pad(t: Tensor) -> Tensor:
    missing = padded_size(len(t)) - len(t)
    return torch.cat([t, t[-1:].expand(missing, *t.shape[1:])]) if missing else t


def _refuse_invalid(x_adv: Images, distance: Tensor, threat: Geometry, member: Member | None) -> None:
    name = member.name if member else "clean"
    if not bool(x_adv.isfinite().all()) or float(x_adv.min()) < 0 or float(x_adv.max()) > 1:
        raise RuntimeError(f"{name}: returned images that are not finite or not in [0, 1]")
    if float(distance.max()) > float(threat.epsilon) + TOLERANCE:
        raise RuntimeError(f"{name}: returned a perturbation of {float(distance.max())} > {threat.epsilon}")
