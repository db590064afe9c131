"""Catastrophic overfitting: a net learns its training attack's single step and loses everything against many steps.

What counts as such a collapse, in the accuracies of the fixed probe of the validation split. ``training/recovery.py``
acts.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from ..settings.config import Real, Settings, Whole

Action = Literal["warn", "stop", "rollback", "switch"]
CLEAN = "clean images"
"""Why an epoch is ``exempt`` whose net is not expected to withstand any attack."""
_Share = Annotated[Real, Field(ge=0, le=1)]


class Collapse(Settings):
    """When accuracies on the probe mean catastrophic overfitting: one of two signs at several validations in a row.

    Gap: FGSM accuracy is more than ``gap`` above PGD accuracy, which is below ``floor``. Bend: the loss is not linear
    within the ball any more (the cosine of the gradients at an image and at a random point around it is below
    ``alignment``), and PGD accuracy is more than ``drop`` below its best, as a share of it.

    Note:
        The usual rule, a drop of 0.2 in one epoch (Wong et al., 2020), misses runs of low robust accuracy. The
        thresholds are ours; the card tells on which runs they were tried.
    """

    gap: _Share = 0.4
    floor: _Share = 0.05
    alignment: Annotated[Real, Field(ge=-1, le=1)] = 0.5
    """Looked at under Linf alone."""
    drop: _Share = 0.4
    checks: Annotated[Whole, Field(ge=1)] = 2
    """Validations in a row; one comes every ``checkpoint.every`` epochs."""

    def suspects(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the newest of these epoch records shows a sign and is judged by it.

        Those that are ``exempt`` are not: of a recovery, of a phase of clean images, and while epsilon is small.
        """
        return bool(history) and not history[-1].get("exempt") and self.signs(history)

    def sound(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether one may return to the newest: it shows no sign, or clean images trained it, which says nothing."""
        return not history or history[-1].get("exempt") == CLEAN or not self.signs(history)

    def signs(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the newest shows one, judged or not."""
        best = max(record["validation"]["probe_pgd_accuracy"] for record in history)
        seen = history[-1]["validation"]
        fgsm, pgd = seen["fgsm_accuracy"], seen["probe_pgd_accuracy"]
        gaping = fgsm - pgd > self.gap and pgd < self.floor
        bent = seen.get("alignment", 1.0) < self.alignment and pgd < (1 - self.drop) * best
        return gaping or bent

    def found(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether so many of the newest records each showed a sign."""
        ends = range(len(history), len(history) - self.checks, -1)
        return len(history) >= self.checks and all(self.suspects(history[:end]) for end in ends)

    def figures(self, history: Sequence[Mapping[str, Any]]) -> str:
        """What the newest record shows."""
        seen = history[-1]["validation"]
        aligned = f", gradient alignment {seen['alignment']:.2f}" if "alignment" in seen else ""
        return f"FGSM accuracy {seen['fgsm_accuracy']:.1%} but PGD accuracy {seen['probe_pgd_accuracy']:.1%}{aligned}"

    def text(self, history: Sequence[Mapping[str, Any]], *, advise: bool = True) -> str:
        """The figures, and what to try."""
        often = f" at {self.checks} checks in a row" if self.checks > 1 else ""
        remedy = (
            "; try guards.catastrophic=rollback, method.attack.kind=n_fgsm, more steps (method.attack.kind=pgd) or a "
            "smaller epsilon"
        )
        return f"{self.figures(history)}{often}{remedy if advise else ''}"
