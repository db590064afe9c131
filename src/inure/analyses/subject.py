"""What an analysis is about, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..data import ImageSet
from ..display.console import Bars
from ..libraries import torch
from ..runs.run import Run
from ..threat import Geometry

if TYPE_CHECKING:
    from ..models import Classifier


@dataclass(frozen=True)
class Subject:
    """A net, the images to look at it with, and where to compute."""

    classifier: Classifier
    images: ImageSet
    threat: Geometry
    seed: int
    batch_size: int
    device: torch.device
    bars: Bars
    run: Run | None = None
    """Whose checkpoints may be compared; None where the user named the weights, or there is no run."""


@dataclass(frozen=True)
class Finding:
    """What an analysis found."""

    title: str
    columns: list[str]
    rows: list[list[Any]]
    """For people: text in each cell."""
    figure: bytes
    """PNG."""
    numbers: dict[str, Any]
    """For programs."""
