"""Conditions: all that decides how an evaluation runs but the net and the images, in one record handed on whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..libraries import nn, torch
from ..settings.errors import UserError, unknown_name
from ..threat import Geometry
from .by_class import CountGroups, ShareGroups
from .suites import SUITES

_PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Workers:
    """Which of several processes this is, and how they wait for each other."""

    rank: int = 0
    world_size: int = 1
    barrier: Any = lambda: None  # noqa: E731


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What is attacked with, judged by, and written where. The fields are explained at ``evaluate``."""

    threat: Geometry
    suite: str = "quick"
    seed: int = 0
    batch_size: int = 128
    mode: Any = None
    device: torch.device | None = None
    """None: where the net is."""
    out: Path | None = None
    resume: bool = False
    workers: Workers = Workers()
    sources: Mapping[str, nn.Module] = field(default_factory=dict)
    search_precision: str = "float32"
    channels_last: bool = False
    store_adversarial: bool = False
    source_hash: str | None = None
    class_counts: Sequence[int] | None = None
    groups: ShareGroups | CountGroups | None = None
    command: str | None = None
    quiet: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot work with any net and any images.

        Raises:
            UserError: For an unknown suite or precision, a batch of no image, and for several processes or stored
                images without ``out``.
        """
        if self.suite not in SUITES:
            raise unknown_name("--suite", self.suite, SUITES)
        if self.batch_size < 1:
            raise UserError("--batch-size", self.batch_size, "a whole number >= 1")
        if self.workers.world_size > 1 and self.out is None:
            raise UserError("out", None, "a folder that all processes see: their results meet there")
        if self.search_precision not in _PRECISIONS:
            raise UserError("--search-precision", self.search_precision, " | ".join(_PRECISIONS), "bfloat16")
        if self.store_adversarial and self.out is None:
            raise UserError("out", None, "a folder for the adversarial images that are to be stored")

    @property
    def search_dtype(self) -> torch.dtype | None:
        """Autocast of the attacks; None: float32."""
        return torch.bfloat16 if self.search_precision == "bfloat16" else None

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes what belongs to all."""
        return self.workers.rank == 0
