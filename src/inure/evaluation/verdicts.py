"""One batch of an evaluation: craft, check the perturbation, judge by a fresh forward.

Batches are padded to powers of two, so that a verdict does not depend on how many examples happen to be left: the
kernels of a CPU treat a batch of one, and the last odd elements of a small batch, otherwise than the rest, and
differ in the last bits.
"""

import time
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..losses import entropy_of
from ..noise import CounterNoise
from ..threat import Geometry
from ..types import Images
from .suites import Member

TOLERANCE = 1e-6
"""How far, in float64, a perturbation may exceed epsilon."""
PADDING = 32
"""Least size of a padded batch: two vectors of the widest CPUs, so that no tensor (B, ...) ends in a partial one."""


class Metered(nn.Module):
    """A net that counts the examples that went forward, and back, through it.

    It runs in float32 whatever autocast says. A gradient that is not finite is taken as zero, and counted: one
    NaN would turn the image, and with it the whole evaluation, into nothing.
    """

    def __init__(self, net: nn.Module, mode: object = None) -> None:
        super().__init__()
        self.net, self.mode = net, mode
        self.forwards = self.backwards = 0
        self.bad_gradients: Tensor | int = 0

    def forward(self, x: Images) -> Tensor:
        """The logits, in float32; the mode is passed on only if one was asked for."""
        self.forwards += len(x)
        if x.requires_grad:
            x.register_hook(self._repair)
        with torch.autocast(x.device.type, enabled=False):
            logits = self.net(x) if self.mode is None else self.net(x, mix=self.mode)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits.float()

    def _count(self, grad: Tensor) -> None:
        self.backwards += len(grad)

    def _repair(self, grad: Tensor) -> Tensor:
        finite = grad.isfinite()
        self.bad_gradients = self.bad_gradients + (~finite.flatten(1).all(1)).sum()
        return torch.where(finite, grad, 0.0)


@dataclass(frozen=True)
class Verdicts:
    """What one attack did to B examples. All tensors on the CPU."""

    x_adv: Images
    prediction: Tensor
    """(B,) int64; -1 where a logit was not finite, which counts as wrong."""
    confidence: Tensor
    """(B,) probability of the predicted class; 0 where a logit was not finite."""
    entropy: Tensor
    """(B,) of the prediction, in nats; infinite where a logit was not finite."""
    distance: Tensor
    """(B,) float64, in the norm of the threat."""
    forwards: int
    backwards: int
    bad_gradients: int
    """Gradients (of padding too) that were not finite."""
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
    padding: int = PADDING,
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
        padding: Least size of the batch that the net sees.

    Raises:
        RuntimeError: If the attack left the threat model or [0, 1]: then its result would be worthless.
    """
    begin, size = time.perf_counter(), len(x)
    forwards, backwards, bad_gradients = model.forwards, model.backwards, model.bad_gradients
    padded, labels, counters = (pad(t, padding) for t in (x, y, index))
    x_adv = padded
    if member is not None:
        # The name, not the place in the suite: an attack starts where it starts alone
        noise = CounterNoise(seed, counters, zlib.crc32(member.name.encode()))
        x_adv = member.attack(model, padded, labels, loss=member.loss, noise=noise)
    with torch.no_grad():
        logits = model(x_adv)
    # Not the argmax of the probabilities: where they round to the same number the logits still differ
    finite, prediction = logits.isfinite().all(1), logits.argmax(1)
    confidence = logits.softmax(1).gather(1, prediction[:, None]).squeeze(1)
    entropy = entropy_of(logits)
    # On the CPU: some devices have no float64
    x_adv, x = x_adv[:size].detach().cpu(), x.cpu()
    distance = threat.distance(x_adv.double(), x.double())
    _refuse_invalid(x_adv, distance, threat, member)
    return Verdicts(
        x_adv,
        torch.where(finite, prediction, -1)[:size].cpu(),
        torch.where(finite, confidence, 0.0)[:size].cpu(),
        torch.where(finite, entropy, torch.inf)[:size].cpu(),
        distance,
        # padding is our own doing: it is not counted
        round((model.forwards - forwards) * size / len(padded)),
        round((model.backwards - backwards) * size / len(padded)),
        int(model.bad_gradients - bad_gradients),
        time.perf_counter() - begin,
    )


def padded_size(size: int, padding: int = PADDING) -> int:
    """The next power of two, at least ``padding``."""
    return max(padding, 1 << (size - 1).bit_length())


def pad(t: Tensor, padding: int = PADDING) -> Tensor:
    """``t`` with copies of its last row, up to ``padded_size``."""
    missing = padded_size(len(t), padding) - len(t)
    return torch.cat([t, t[-1:].expand(missing, *t.shape[1:])]) if missing else t


def _refuse_invalid(x_adv: Images, distance: Tensor, threat: Geometry, member: Member | None) -> None:
    name = member.name if member else "clean"
    if not bool(x_adv.isfinite().all()) or float(x_adv.min()) < 0 or float(x_adv.max()) > 1:
        raise RuntimeError(f"{name}: returned images that are not finite or not in [0, 1]")
    if float(distance.max()) > float(threat.epsilon) + TOLERANCE:
        raise RuntimeError(f"{name}: returned a perturbation of {float(distance.max())} > {threat.epsilon}")


def out_of_memory(error: RuntimeError) -> bool:
    """Whether that is what an error says. CUDA has a type of its own for it; the CPU and MPS say it in words."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError) or any(w in str(error).lower() for w in words)
