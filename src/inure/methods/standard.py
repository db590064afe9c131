"""Training on clean images: the baseline that every robustness number is read against."""

from __future__ import annotations

from typing import ClassVar, Literal

from ..libraries import nn
from ..settings.config import Settings
from ..types import Batch, Criterion, Images, Losses, Search


class Standard(Settings):
    """min E[ criterion(f(x), y) ]."""

    ignores: ClassVar[tuple[str, ...]] = ("attack",)
    """Criteria of ``balance`` that have no effect here."""
    predicts: ClassVar[tuple[str, ...]] = ("clean",)
    """What the update predicts."""

    kind: Literal["standard"] = "standard"

    def craft(self, model: nn.Module, batch: Batch, attack: Search | None, criterion: Criterion) -> Images:
        """The clean images themselves: nothing is crafted."""
        return batch.x

    def losses(self, model: nn.Module, batch: Batch, x_adv: Images, criterion: Criterion) -> Losses:
        """One forward on the clean images."""
        return Losses(criterion(model(batch.x), batch.y), {})
