"""Flags: what makes a robustness number doubtful, found by probing the net before it is attacked.

A flag is data: name, severity, what was found. ``severe`` makes the headline unverified; ``warning`` is to be read;
``note`` only informs. The thresholds are in ``FLAGS``; those of randomised, softmax, zero gradient and Square are the
reference's (AutoAttack, Croce and Hein, 2020, arXiv:2003.01690), the others ours.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Variable

from ..losses import margin
from ..models.modes import attack_mode, frozen
from ..types import Images
from .examples import Examples
from .metered import Metered, out_of_memory

PROBED = 64
"""The first examples, which the probes look at."""
_FEWEST = 8
_WITHOUT_GRADIENTS = ("square", "transfer")
"""How the names of attacks begin that are not guided by gradients of the net."""
_ENGINE = threading.Lock()


class Rule(NamedTuple):
    """How serious a flag is, and from when on it is raised."""

    severity: str
    threshold: str


FLAGS = {
    "non_finite_logits": Rule("severe", "any prediction whose logits are not finite"),
    "non_finite_gradients": Rule("severe", "any gradient that is not finite"),
    "training_images": Rule("severe", "the images are those of training"),
    "randomised": Rule(
        "severe", "of 5 forwards, different counts of right answers, or normalised logits over 1e-4 apart"
    ),
    "softmax_output": Rule("severe", "all outputs in [0, 1] and all rows sum to 1, within 1e-5"),
    "zero_gradient": Rule("severe", "any probed image with a margin whose gradient is exactly zero"),
    "dynamic_forward": Rule("severe", "a backward inside a forward"),
    "batch_dependent": Rule("severe", "logits move by more than 0.1 % of their size with the rest of the batch"),
    "saturated_logits": Rule("severe", "median gap of the two largest logits over 100"),
    "double_normalisation": Rule("severe", "accuracy rises by over 10 points where one normalisation is undone"),
    "missing_normalisation": Rule("severe", "accuracy rises by over 10 points on normalised images"),
    "few_classes": Rule("note", "an attack of the suite needs more classes than there are"),
    "many_classes": Rule("note", "an attack of the suite takes fewer classes than there are"),
    "square_beats_white_box": Rule(
        "severe", "Square breaks more than 0.2 % (and 2) of the examples after white-box attacks"
    ),
    # From here on: found by the audit
    "transfer_beats_white_box": Rule(
        "severe", "images made for another net break over 0.2 % (and 2) of the examples after white-box attacks"
    ),
    "fgsm_beats_pgd": Rule(
        "severe", "FGSM breaks over 1 % (and 3) of the examples more than PGD-10, or PGD-10 more than PGD-100"
    ),
    "non_monotone": Rule("severe", "at a larger radius over 1 % (and 3) of the examples more stand than at a smaller"),
    "weak_attack": Rule("warning", "twice the steps of PGD-100 break over 0.2 % (and 2) of the examples more"),
    "silent_success": Rule(
        "severe", "of over 0.2 % (and 2) of the examples an iterate was misclassified, the returned image is not"
    ),
    "vanishing_gradient": Rule("severe", "over 1 % of the gradients of PGD on cross-entropy are exactly zero"),
    "unreachable_zero": Rule("severe", "any example stands against an attack without bound"),
    "verdict_reversed": Rule("severe", "a second forward of any returned image gives another prediction"),
    "catastrophic_overfitting": Rule(
        "warning",
        "FGSM leaves over 25 points more standing than PGD-10, and input gradients at the image and at a "
        "random point of the ball have a mean cosine under 0.3",
    ),
    "not_converged": Rule("warning", "the last tenth of the steps brings over 5 % of the rise of the best loss"),
    "unstable_predictions": Rule("warning", "random points of the ball change the margin by over 75 % on average"),
}
_NORMALISATIONS = {
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "mean 0.5, std 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def flag(name: str, detail: str, severity: str | None = None) -> dict[str, str]:
    """One flag; its severity is the rule's unless a caller knows better."""
    return {"name": name, "severity": severity or FLAGS[name].severity, "detail": detail}


def probe(
    model: Metered, examples: Examples, device: torch.device, *, averages: bool = False, size: int = PROBED
) -> list[dict[str, str]]:
    """What is wrong with a net, as far as forwards of the first images tell.

    Args:
        model: In any mode; put into eval mode for the time being. What the probes cost is not counted.
        examples: Of which the first 64 are looked at.
        device: Where to compute.
        averages: Whether the attacks average over random forwards; then randomness is a note.
        size: At most so many images; halved down to 8 where memory runs out.
    """
    try:
        return _probe(model, examples, device, averages, size)
    except RuntimeError as error:
        if not out_of_memory(error) or size <= _FEWEST:
            raise
    # Here the error is gone, and with its traceback the tensors that it held
    model.padding = min(model.padding, size // 2)
    return probe(model, examples, device, averages=averages, size=size // 2)


def _probe(model: Metered, examples: Examples, device: torch.device, averages: bool, size: int) -> list[dict[str, str]]:
    rows = torch.arange(min(size, len(examples)))
    x, y = examples.images(rows, device), examples.labels[rows].to(device)
    with attack_mode(model, "eval"), frozen(model):
        logits, backwards = _counted(model, x)
        found = [
            _randomised(model, x, y, logits, averages), _softmax(logits), _saturated(logits),
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


def beaten_white_box(standing: Sequence[tuple[str, int]], total: int) -> list[dict[str, str]]:
    """Whether attacks that the net's gradients do not guide broke what those with its gradients left.

    Args:
        standing: (attack, examples standing after it), in order, the clean images first; by its name an attack is
            Square, a transfer, or white-box.
        total: Of all examples.
    """
    found, white_box = [], False
    for (_, before), (name, after) in zip(standing[:-1], standing[1:], strict=True):
        broken, kind = before - after, name.partition("-")[0]
        if kind not in _WITHOUT_GRADIENTS:
            white_box = True
        elif white_box and broken >= 2 and broken / max(total, 1) > 0.002:
            detail = f"{name} broke {broken} of {before} examples that all attacks before it left: gradients mislead"
            found.append(flag(f"{kind}_beats_white_box", detail))
    return found


def _logits(model: Metered, x: Images) -> Tensor:
    with torch.no_grad():
        return model(x)


def _randomised(model: Metered, x: Images, y: Tensor, first: Tensor, averages: bool) -> dict[str, str] | None:
    outputs = [first, *(_logits(model, x) for _ in range(4))]
    counts = {int((z.argmax(1) == y).sum()) for z in outputs}
    units = [z / z.norm(dim=1, keepdim=True).clamp_min(1e-12) for z in outputs]
    apart = max(float((u - units[0]).norm(dim=1).max()) for u in units)
    if len(counts) == 1 and not apart > 1e-4:
        return None
    detail = f"5 forwards gave {min(counts)} to {max(counts)} right answers, normalised logits up to {apart:.2g} apart"
    remedy = "" if averages else "; --suite autoattack_rand averages gradients"
    return flag("randomised", detail + remedy, "note" if averages else None)


def _softmax(logits: Tensor) -> dict[str, str] | None:
    inside = (logits >= -1e-5).all() & (logits <= 1 + 1e-5).all()
    if not bool(inside & ((logits.sum(1) - 1).abs() <= 1e-5).all()):
        return None
    return flag(
        "softmax_output", "outputs are probabilities: the gradient of their cross-entropy vanishes; give logits"
    )


def _saturated(logits: Tensor) -> dict[str, str] | None:
    if logits.shape[1] < 2:
        return None
    top = logits.topk(2, dim=1).values
    gap = float((top[:, 0] - top[:, 1]).median())
    if not gap > 100:
        return None
    return flag("saturated_logits", f"median gap {gap:.3g}: in float32 the cross-entropy is 0 and has no gradient")


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
    if int(model.bad_gradients):  # taken as zero by Metered; that has a flag of its own
        return None
    zero = int((grad.flatten(1).abs().sum(1) == 0).sum())
    if not zero:
        return None
    return flag("zero_gradient", f"{zero} of {len(x)} probed images have a margin without any gradient")


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
    engine: Any = Variable._execution_engine
    calls: list[None] = []
    thread = threading.get_ident()

    class Counting:
        def run_backward(self, *arguments: Any, **options: Any) -> Any:
            if threading.get_ident() == thread:
                calls.append(None)
            return engine.run_backward(*arguments, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(engine, name)

    Variable._execution_engine = Counting()  # type: ignore[assignment]
    try:
        yield calls
    finally:
        Variable._execution_engine = engine
        _ENGINE.release()
