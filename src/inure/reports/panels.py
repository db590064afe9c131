"""What the training curves show: a panel for each quantity of the records. To add one: add it to ``PANELS``."""

from collections.abc import Sequence
from dataclasses import dataclass

CLEAN, ROBUST, EXTRA = "#4179c4", "#d4722a", "#8b8f97"
# None of these is the colour of clean or robust: a comparison shows both kinds.
RUN_COLOURS = ("#2b9b75", "#8668c6", "#bb5078", "#a48a1f", "#3a9fc0", "#8b8f97", "#7a9a2f", "#a4673f")
INK = "#010203"
"""Stands in for the colour of the page's text."""
_STROKES = {"-": "full", "--": "dashed", ":": "dotted"}


@dataclass(frozen=True)
class Line:
    """One curve of a panel: where its values are in an epoch's record, and how it is drawn."""

    key: str
    dashes: str = "-"
    colour: str = INK
    scale: float = 1.0
    name: str = ""
    """What the panel's title calls it, where it is not alone there."""


@dataclass(frozen=True)
class Panel:
    """One small figure of the training curves."""

    title: str
    lines: tuple[Line, ...]
    unit: str = ""
    may_be_log: bool = False
    """Whether values that span more than two decades are drawn on a logarithmic axis."""
    long_tail: bool = False
    """Whether it is drawn only where a recipe makes a long tail."""

    def title_of(self, drawn: Sequence[Line]) -> str:
        """The title, with the names of the lines if several were drawn."""
        named = [f"{line.name} ({_STROKES[line.dashes]})" for line in self.lines if line.name and line in drawn]
        return f"{self.title}: {', '.join(named)}" if len(named) > 1 else self.title


def _accuracies(dotted: str, dashed: str, full: str) -> tuple[Line, ...]:
    """Three accuracies of the validation, in percent, by what records call them."""
    strokes = ((dotted, ":", EXTRA), (dashed, "--", CLEAN), (full, "-", ROBUST))
    return tuple(Line(f"validation.{name}_accuracy", dashes, colour, 100) for name, dashes, colour in strokes)


PANELS = (
    Panel("Training loss", (Line("train.loss"),), may_be_log=True),
    Panel("Accuracy on the validation split", _accuracies("fgsm", "clean", "robust"), unit=" %"),
    Panel(
        "Balanced validation accuracy; worst class dotted",
        _accuracies("worst_class_robust", "balanced_clean", "balanced_robust"),
        unit=" %",
        long_tail=True,
    ),
    Panel(
        "Domains",
        (
            Line("validation.adapter_cosine", name="cosine"),
            Line("validation.adapter_distance", ":", name="distance over norm"),
        ),
    ),
    Panel("Learning rate", (Line("lr"),)),
    Panel("Effective learning rate over batch", (Line("effective_lr_over_batch"),)),
    Panel("Epsilon of the training attack", (Line("epsilon"),)),
    Panel("Gradient norm", (Line("train.grad_norm"),), may_be_log=True),
    # Near 1 the loss is linear in the ball; its fall is the sign of catastrophic overfitting
    Panel(
        "Gradient alignment",
        (
            Line("measures.gradient_alignment", name="measured"),
            Line("validation.alignment", ":", ROBUST, name="at validation"),
        ),
    ),
    Panel("Error of linear prediction of the loss", (Line("measures.linearity_error"),), may_be_log=True),
    Panel(
        "Gradient along a step",
        (
            Line("measures.gradient_norm", name="norm"),
            Line("measures.gradient_distance", ":", name="change"),
        ),
        may_be_log=True,
    ),
    Panel("Cosine of the gradient before and after a step", (Line("measures.gradient_cosine"),)),
    Panel(
        "Gradient noise",
        (
            Line("measures.gradient_noise_trace", name="trace"),
            Line("measures.gradient_squared_norm", ":", name="squared norm"),
        ),
        may_be_log=True,
    ),
    Panel("Gradient noise scale", (Line("measures.gradient_noise_scale"),), may_be_log=True),
    Panel("Kernel: distance from the last look", (Line("measures.kernel_distance"),), may_be_log=True),
    Panel("Kernel: trace", (Line("measures.kernel_trace"),), may_be_log=True),
    Panel("Kernel: effective rank", (Line("measures.kernel_rank"),)),
    Panel("Kernel: share of the largest eigenvalue", (Line("measures.kernel_top_share"),)),
    Panel("Images per second", (Line("images_per_second"),)),
)
