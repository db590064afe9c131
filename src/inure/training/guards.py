"""Watching training: numbers that are not finite, a collapse to chance, catastrophic overfitting."""

import math
from typing import Any

import torch
from torch import Tensor

from ..recipe.catastrophic import Collapse
from ..settings.errors import NonFinite

COLLAPSE_AFTER = 0.25
"""Share of training after which predicting no better than chance counts as a collapse."""
_DEFAULT = Collapse()


class FiniteGuard:
    """Remembers, on the device, the first step whose loss or gradient was not finite; asked only now and then."""

    def __init__(self) -> None:
        self._step: Tensor | None = None
        self._parts: Tensor | None = None
        self._names: list[str] = []

    def observe(self, step: int, logged: dict[str, Tensor]) -> None:
        """Take in the logged numbers of one step; no host synchronisation."""
        if self._parts is not None and self._names != list(logged):  # another method trains: a phase, a recovery
            self.check()
            self.reset()
        values = torch.stack([value.float() for value in logged.values()])
        bad = ~values.isfinite().all()
        if self._step is None or self._parts is None:
            self._step, self._parts = torch.full((), -1, device=values.device), torch.zeros_like(values)
        first = bad & (self._step < 0)
        self._step = torch.where(first, step, self._step)
        self._parts = torch.where(first, values, self._parts)
        self._names = list(logged)

    def check(self) -> None:
        """Read the memory: one host synchronisation.

        Raises:
            NonFinite: With the first bad step and its loss parts.
        """
        if self._step is not None and self._parts is not None and int(self._step) >= 0:
            step, parts = int(self._step), dict(zip(self._names, self._parts.tolist(), strict=True))
            self._step = None
            raise NonFinite(step, parts)

    def reset(self) -> None:
        """Forget, after a rollback."""
        self._step = self._parts = None


def warnings_of(
    history: list[dict[str, Any]],
    num_classes: int,
    *,
    attacks: bool,
    collapse: Collapse = _DEFAULT,
    advise: bool = True,
) -> list[dict[str, str]]:
    """What the newest epoch record gives reason to warn of: {kind, detail}.

    Args:
        history: Epoch records of metrics.jsonl, oldest first.
        num_classes: For the level of chance.
        attacks: Whether the method trains on adversarial images: others are expected to fall to PGD.
        collapse: What counts as catastrophic overfitting.
        advise: Whether to say what could be done about that: not where the guard does something.
    """
    found = []
    newest = history[-1]
    clean = newest["validation"]["clean_accuracy"]
    loss = newest["validation"]["clean_loss"]
    chance, plateau = 1 / num_classes, math.log(num_classes)
    if newest["progress"] >= COLLAPSE_AFTER and clean <= 1.3 * chance and loss >= 0.9 * plateau:
        detail = (
            f"validation accuracy {clean:.1%} is chance, the loss {loss:.2f} is near ln K = {plateau:.2f}; "
            "try a lower lr, clip_norm=1.0, or an epsilon ramp (regime.epsilon.kind=ramp)"
        )
        found.append({"kind": "collapse", "detail": detail})
    if attacks and collapse.found(history):
        found.append({"kind": "catastrophic_overfitting", "detail": collapse.text(history, advise=advise)})
    return found
