"""What a penalty sees of a training step, and how terms are added to a method's loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from ..libraries import Tensor, nn, torch
from ..models.domains import in_domain
from ..types import Batch, Criterion, Images, Logits, Losses, PerExample, Term

_PREDICTS = ("adversarial",)


@dataclass(frozen=True)
class Outer:
    """The outer half of a step: what the method's forwards gave."""

    model: nn.Module
    """This process's own net, for passes of a penalty's own."""
    method: Any
    """What trains."""
    batch: Batch
    x_adv: Images
    """(A * B, C, H, W), A = 1 but for co-training with several attacks."""
    adversarial: Logits
    """(A * B, K), of ``x_adv``."""
    clean: Logits | None
    """(B, K), of the clean images, where the method trains on them too."""
    features: Tensor | None
    """(A * B, D), pooled, of ``x_adv``; for penalties with ``features``."""
    attack: Any
    """What crafted, with its ``threat`` at the strength of the moment, radii by class included; None if nothing is
    attacked."""
    criterion: Criterion
    """What the update descends."""

    @property
    def labelled(self) -> Logits:
        """(A * B, K) or (B, K): the predictions that the method compares with labels."""
        return self.predictions(predicts(self.method)[0])

    def predictions(self, which: str) -> Logits:
        """The ``clean`` or the ``adversarial`` ones; where nothing is attacked they are the same."""
        return self.clean if which == "clean" and self.clean is not None else self.adversarial


def predicts(method: Any) -> tuple[str, ...]:
    """What the update of a method predicts, ``clean`` or ``adversarial`` images; the first it compares with labels."""
    return getattr(method, "predicts", _PREDICTS)


class Penalty(Protocol):
    """A term added to any method. It may have a memory (see ``memory.py``).

    It may also have ``attack_term(model, batch)``, called before the attack: a function of logits (B, K) to (B,) that
    is added to what the attack climbs, or None; ``features = True`` if it needs them; ``eager = True`` if it
    differentiates twice, which compiled nets refuse; ``needs_attack = True``; and ``on``, which predictions it is
    about, where it is about some. With a weight of 0 it makes no pass and draws nothing.
    """

    def __call__(self, outer: Outer) -> PerExample:
        """(B,) or (A * B,), weighted: what is added to the loss of each example."""
        ...


class Forwards:
    """The forwards of a net while it is watched, one after the other."""

    def __init__(self) -> None:
        self._logits: list[Logits] = []
        self._features: list[Tensor] = []

    def clear(self) -> None:
        """Forget: the net is run again, at other weights."""
        self._logits, self._features = [], []

    def add(self, output: Logits | tuple[Logits, Tensor]) -> Logits:
        """Remember an output, and hand on its logits."""
        logits, features = output if isinstance(output, tuple) else (output, None)
        self._logits.append(logits)
        if features is not None:
            self._features.append(features)
        return logits

    def adversarial(self, count: int) -> tuple[Logits, Tensor | None]:
        """Logits and features of the last ``count`` images: every method has the adversarial ones last."""
        features = torch.cat(self._features)[-count:] if self._features else None
        return torch.cat(self._logits)[-count:], features

    def outer(
        self, model: nn.Module, method: Any, batch: Batch, x_adv: Images, attack: Any, criterion: Criterion
    ) -> Outer:
        """All that a penalty sees."""
        adversarial, features = self.adversarial(len(x_adv))
        logits, count = torch.cat(self._logits), len(batch.x)
        clean = logits[:count] if len(logits) >= count + len(x_adv) else None
        return Outer(model, method, batch, x_adv, adversarial, clean, features, attack, criterion)


@contextmanager
def watched(model: nn.Module, forwards: Forwards, penalties: Sequence[Any]) -> Iterator[None]:
    """Inside, ``forwards`` remembers the forwards of ``model``, with features if a penalty needs them.

    ``model`` is the net as Fabric wraps it: what is compiled lies inside and does not notice.
    """

    def ask(_: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        return arguments, {**options, "features": True}

    def note(_: nn.Module, arguments: tuple[Any, ...], output: Any) -> Logits:
        return forwards.add(output)

    hooks = [model.register_forward_hook(note)]
    if any(getattr(penalty, "features", False) for penalty in penalties):
        hooks.append(model.register_forward_pre_hook(ask, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def attack_terms(penalties: Sequence[Any], method: Any, model: nn.Module, batch: Batch) -> list[Term]:
    """What the penalties add to the loss that the attack climbs; those with a memory also take note of the batch.

    They see ``model`` in the domain of the method's clean images.
    """
    model = in_domain(model, getattr(method, "clean", None))
    asked = [penalty.attack_term(model, batch) for penalty in penalties if hasattr(penalty, "attack_term")]
    return [term for term in asked if term is not None]


def with_penalties(losses: Losses, penalties: Sequence[Any], outer: Outer) -> Losses:
    """The losses with every penalty added, each a part to log of its own."""
    total, parts, count = losses.total, dict(losses.parts), len(outer.batch.x)
    for penalty in penalties:
        value = penalty(outer).view(-1, count).mean(0)
        total = total + value
        parts[penalty.kind] = value
    return Losses(total, parts)
