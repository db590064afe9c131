"""Plain cross-entropy, optionally with label smoothing (Szegedy et al., 2016, arXiv:1512.00567)."""

from typing import Annotated, Literal

from pydantic import Field

from .. import losses
from ..settings.config import Real, Settings
from ..types import Labels, Logits, PerExample


class CrossEntropy(Settings):
    """-sum_k ((1 - s) y_k + s / K) log p_k with s = ``label_smoothing``."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Annotated[Real, Field(ge=0, lt=1)] = 0.0

    def __call__(self, logits: Logits, y: Labels) -> PerExample:
        """(B,) losses of hard or soft labels."""
        return losses.cross_entropy(logits, y, self.label_smoothing)
