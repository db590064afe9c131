"""One batch of an evaluation: craft, check the perturbation, judge by a fresh forward."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..libraries import Tensor, torch
from ..losses import entropy_of
from ..noise import CounterNoise, mix_integers
from ..threat import Geometry
from ..types import Images, Logits
from .suites import Member

if TYPE_CHECKING:
    from .metered import Metered

TOLERANCE = 1e-6
"""How far, in float64, a perturbation may exceed epsilon."""


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
    """Gradients that were not finite."""
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
    search_dtype: torch.dtype | None = None,
    votes: int = 1,
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
        search_dtype: Autocast of the attack's forwards; None: float32. The verdict is in float32 always.
        votes: Forwards whose mean logits decide, for nets that draw at random. More than one draw from a generator that
            is seeded for this batch: the result can be repeated, but depends on who is in the batch.

    Raises:
        RuntimeError: If the attack left the threat model or [0, 1]: then its result would be worthless.
    """
    begin, size = time.perf_counter(), len(x)
    # A single image comes twice: sums over one alone may be cut in other parts, with other last bits
    if size == 1:
        x, y, index = (torch.cat([t, t]) for t in (x, y, index))
    forwards, backwards, bad_gradients = model.forwards, model.backwards, model.bad_gradients
    x_adv = x
    if member is not None:
        # The name, not the place in the suite: an attack starts where it starts alone
        noise = CounterNoise(seed, index, zlib.crc32(member.name.encode()))
        with model.searching_in(None if member.in_float32 else search_dtype), _seeded(votes, seed, index, member):
            x_adv = member.attack(model, x, y, loss=member.loss, noise=noise)
    with torch.no_grad(), _seeded(votes, seed + 1, index, member):
        logits = torch.stack([model(x_adv) for _ in range(votes)]).mean(0)
    prediction, entropy = predictions(logits), entropy_of(logits)
    finite = prediction >= 0
    confidence = logits.softmax(1).gather(1, prediction.clamp(min=0)[:, None]).squeeze(1)
    # On the CPU: some devices have no float64
    x_adv, x = x_adv[:size].detach().cpu(), x[:size].cpu()
    distance = threat.distance(x_adv.double(), x.double())
    _refuse_invalid(x_adv, distance, threat, member)
    return Verdicts(
        x_adv,
        prediction[:size].cpu(),
        torch.where(finite, confidence, 0.0)[:size].cpu(),
        torch.where(finite, entropy, torch.inf)[:size].cpu(),
        distance,
        model.forwards - forwards,
        model.backwards - backwards,
        int(model.bad_gradients - bad_gradients),
        time.perf_counter() - begin,
    )


def predictions(logits: Logits) -> Tensor:
    """(B,) the class of the largest logit; -1 where one is not finite.

    Not the argmax of the probabilities: where they round to the same number the logits still differ.
    """
    return torch.where(logits.isfinite().all(1), logits.argmax(1), -1)


@contextmanager
def _seeded(votes: int, seed: int, index: Tensor, member: Member | None) -> Iterator[None]:
    """Torch's generators from a seed of this batch, and as they were afterwards; nothing with a single vote."""
    if votes == 1:
        yield
        return
    name = member.name if member else "clean"
    with torch.random.fork_rng([index.device] if index.device.type == "cuda" else []):
        torch.manual_seed(mix_integers(seed, zlib.crc32(name.encode()), len(index), int(index.sum())) % (1 << 63))
        yield


def _refuse_invalid(x_adv: Images, distance: Tensor, threat: Geometry, member: Member | None) -> None:
    name = member.name if member else "clean"
    if not bool(x_adv.isfinite().all()) or float(x_adv.min()) < 0 or float(x_adv.max()) > 1:
        raise RuntimeError(f"{name}: returned images that are not finite or not in [0, 1]")
    if float(distance.max()) > float(threat.epsilon) + TOLERANCE:
        raise RuntimeError(f"{name}: returned a perturbation of {float(distance.max())} > {threat.epsilon}")
