"""Probes: what is wrong with a net before it is attacked, as far as a few forwards tell."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..libraries import Tensor, torch
from ..losses import margin
from ..models.modes import attack_mode, frozen
from ..types import Images, Logits
from .examples import Examples
from .flags import flag
from .metered import Metered, out_of_memory

PROBED = 64
"""So many examples are looked at, drawn by their index: the order of the set decides nothing."""
APART = 1e-4
"""Two forwards of one image whose outputs are further apart than this are not the same."""
_ENGINE = threading.Lock()
_SATURATED = 0.25
_VANISHED = 1e-6
_NORMALISATIONS = {
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "mean 0.5, std 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def probe(
    model: Metered,
    examples: Examples,
    device: torch.device,
    *,
    averages: bool = False,
    cross_entropy_only: bool = False,
    size: int = PROBED,
) -> list[dict[str, str]]:
    """What is wrong with a net, as far as forwards of a few images tell.

    Args:
        model: In any mode; put into eval mode for the time being. What the probes cost is not counted.
        examples: Of which 64 are looked at, drawn by their index.
        device: Where to compute.
        averages: Whether the attacks average over random forwards; then randomness is a note.
        cross_entropy_only: Whether all attacks climb cross-entropy, which saturates.
        size: At most so many images; halved down to 8 where memory runs out.
    """
    try:
        return _probe(model, examples, device, averages, cross_entropy_only, size)
    except RuntimeError as error:
        smaller = model.retreat(size) if out_of_memory(error) else None
        if smaller is None:
            raise
    # Here the error is gone, and with its traceback the tensors that it held
    return probe(model, examples, device, averages=averages, cross_entropy_only=cross_entropy_only, size=smaller)


def _probe(
    model: Metered, examples: Examples, device: torch.device, averages: bool, cross_entropy_only: bool, size: int
) -> list[dict[str, str]]:
    rows = examples.sample(size)
    x, y = examples.images(rows, device), examples.labels[rows].to(device)
    with attack_mode(model, "eval"), frozen(model):
        logits, backwards = _counted(model, x)
        found = [
            _randomised(model, x, y, logits, averages), _softmax(logits), _saturated(logits, cross_entropy_only),
            _batch_dependent(model, x, logits), _zero_gradient(model, x, y), *_normalisation(model, x, y, logits),
        ]  # fmt: skip
    if backwards:
        found.append(flag("dynamic_forward", f"{backwards} backwards inside one forward: an adaptive attack is needed"))
    model.forget()
    names = [f["name"] for f in found if f is not None]
    # A net that draws at random is not blamed for what follows from it
    if "randomised" in names:
        found = [f for f in found if f is None or f["name"] != "batch_dependent"]
    return [f for f in found if f is not None]


def apart(one: Logits, other: Logits) -> Tensor:
    """(B,) the distance of two outputs for each image, both scaled to length 1."""
    units = [z / z.norm(dim=1, keepdim=True).clamp_min(1e-12) for z in (one, other)]
    return (units[0] - units[1]).norm(dim=1)


def _logits(model: Metered, x: Images) -> Tensor:
    with torch.no_grad():
        return model(x)


def _randomised(model: Metered, x: Images, y: Tensor, first: Tensor, averages: bool) -> dict[str, str] | None:
    outputs = [first, *(_logits(model, x) for _ in range(4))]
    counts = {int((z.argmax(1) == y).sum()) for z in outputs}
    moved = max(float(apart(z, first).max()) for z in outputs)
    if len(counts) == 1 and not moved > APART:
        return None
    given = min(counts) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    detail = f"5 forwards gave {given} right answers, normalised logits up to {moved:.2g} apart"
    remedy = "" if averages else "; --suite autoattack_rand averages gradients"
    return flag("randomised", detail + remedy, "note" if averages else None)


def _softmax(logits: Tensor) -> dict[str, str] | None:
    inside = (logits >= -1e-5).all() & (logits <= 1 + 1e-5).all()
    if not bool(inside & ((logits.sum(1) - 1).abs() <= 1e-5).all()):
        return None
    return flag(
        "softmax_output", "outputs are probabilities: the gradient of their cross-entropy vanishes; give logits"
    )


def _saturated(logits: Tensor, cross_entropy_only: bool) -> dict[str, str] | None:
    if logits.shape[1] < 2:
        return None
    top = logits.topk(2, dim=1).values
    gap = float((top[:, 0] - top[:, 1]).median())
    if gap > 100:
        return flag("saturated_logits", f"median gap {gap:.3g}: in float32 the cross-entropy is 0 and has no gradient")
    sure = float((logits.softmax(1).amax(1) == 1).double().mean())
    if cross_entropy_only and sure > _SATURATED:
        detail = f"{100 * sure:.0f} % of the probed images have a probability that rounds to 1: half the gradient of "
        return flag("saturated_logits", detail + "the cross-entropy is lost; --suite quick climbs the margin too")
    return None


def _batch_dependent(model: Metered, x: Images, logits: Tensor) -> dict[str, str] | None:
    few = max(1, len(x) // 4)
    alone = _logits(model, x[:few])
    moved = float((alone - logits[:few]).abs().max() / logits.abs().max().clamp_min(1e-12))
    if not moved > 1e-3:
        return None
    detail = f"logits move by {100 * moved:.2g} % with the rest of the batch: is a BatchNorm in train mode?"
    return flag("batch_dependent", detail)


def _zero_gradient(model: Metered, x: Images, y: Tensor) -> dict[str, str] | None:
    inputs = x.detach().requires_grad_()
    with torch.enable_grad():
        values = margin(model(inputs), y, kappa=torch.inf)
        try:
            (grad,) = torch.autograd.grad(values.sum(), inputs)
        except RuntimeError as error:
            detail = f"the output does not depend on the image for autograd: {str(error).partition('.')[0]}"
            return flag("zero_gradient", detail)
    if int(model.bad_gradients):  # taken as zero by Metered
        return flag("non_finite_gradients", f"of {int(model.bad_gradients)} of {len(x)} probed images")
    reach = grad.flatten(1).double().abs().sum(1)
    zero = int((reach <= _VANISHED * values.detach().double().abs()).sum())
    if not zero:
        return None
    return flag("zero_gradient", f"{zero} of {len(x)} probed images have a margin with no gradient, or next to none")


def _normalisation(model: Metered, x: Images, y: Tensor, logits: Tensor) -> Iterator[dict[str, str] | None]:
    """Both mistakes show as accuracy that rises where the images are changed back."""
    right = float((logits.argmax(1) == y).double().mean())
    best: dict[str, tuple[float, str]] = {}
    for name, (mean, std) in _NORMALISATIONS.items():
        m, s = (torch.tensor(v, device=x.device).view(1, -1, 1, 1) for v in (mean, std))
        if x.shape[1] == 1:
            m, s = m.mean(1, keepdim=True), s.mean(1, keepdim=True)
        elif x.shape[1] != 3:
            return
        for kind, changed in (("double_normalisation", x * s + m), ("missing_normalisation", (x - m) / s)):
            share = float((_logits(model, changed).argmax(1) == y).double().mean())
            if share > best.get(kind, (right + 0.1, ""))[0]:
                best[kind] = share, name
    noise = 2 * (0.25 / len(x)) ** 0.5
    for kind, (share, name) in best.items():
        if share - right > noise:
            yield flag(kind, f"{100 * right:.0f} % of the probed images are right, {100 * share:.0f} % with {name} "
                             f"{'undone' if kind.startswith('double') else 'applied'}")  # fmt: skip


def _counted(model: Metered, x: Images) -> tuple[Tensor, int]:
    with _backwards() as calls:
        logits = _logits(model, x)
    return logits, len(calls)


@contextmanager
def _backwards() -> Iterator[list[None]]:
    """Counts this thread's backwards inside: all go through autograd's engine, whatever function asked for them."""
    _ENGINE.acquire()  # one at a time: two would put back each other's
    variable: Any = torch.autograd.Variable
    engine: Any = variable._execution_engine
    calls: list[None] = []
    thread = threading.get_ident()

    class Counting:
        def run_backward(self, *arguments: Any, **options: Any) -> Any:
            if threading.get_ident() == thread:
                calls.append(None)
            return engine.run_backward(*arguments, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(engine, name)

    variable._execution_engine = Counting()
    try:
        yield calls
    finally:
        variable._execution_engine = engine
        _ENGINE.release()
