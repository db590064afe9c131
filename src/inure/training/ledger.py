"""What a run remembers of itself: the tally of an epoch, its record, warnings, and where they go."""

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..display.console import Bars, percent
from ..machine import files
from ..recipe.recipe import Recipe
from ..runs.run import Run
from .guards import warnings_of
from .tracking import Tracker

_COUNTS: tuple[str, ...] = ("images", "steps", "seconds")
"""Kept on the host. The seconds are those of the steps, not of validation."""


class Ledger:
    """The tally (on the device, read once an epoch) and the records in metrics.jsonl.

    Only the process with ``writes`` touches files.
    """

    def __init__(self, run: Run, recipe: Recipe, bars: Bars, *, num_classes: int, writes: bool) -> None:
        self.run, self.recipe, self.bars = run, recipe, bars
        self.trackers: list[Tracker] = []
        self._num_classes, self._writes = num_classes, writes
        self._attacks = hasattr(recipe.method, "attack")
        self.history = [r for r in files.read_lines(run.metrics) if r["event"] == "epoch"]
        self._sums: dict[str, Tensor] = {}
        self._counts = dict.fromkeys(_COUNTS, 0.0)
        self._begin = time.monotonic()

    def tally(self, logged: dict[str, Tensor], images: int) -> None:
        """Add one step's numbers; no host synchronisation."""
        now = time.monotonic()
        counted = {"images": float(images), "steps": 1.0, "seconds": now - self._begin}
        self._counts = {name: self._counts[name] + value for name, value in counted.items()}
        # A phase or a recovery may end within the tally: parts that only one of two methods has count as 0 of the other
        added = {n: self._sums[n] + v if n in self._sums else v.clone() for n, v in logged.items()}
        self._sums = {**self._sums, **added}
        self._begin = now

    def mean_loss(self) -> float:
        """The mean loss since the last record: one host synchronisation."""
        return float(self._sums["loss"]) / max(self._counts["steps"], 1.0)

    def average(self, mean: Callable[[Tensor], Tensor]) -> None:
        """Replace the tally of this process by the mean over all."""
        self._sums = {name: mean(value) for name, value in self._sums.items()}

    def sums(self) -> dict[str, float]:
        """The tally, for a checkpoint."""
        return {name: float(value) for name, value in self._sums.items()} | self._counts

    def restore(self, sums: dict[str, float], step: int, epoch: int, device: torch.device) -> None:
        """Continue the tally of ``step``, after so many whole epochs; the history ends there."""
        self._counts = {name: sums.get(name, 0.0) for name in _COUNTS}
        self._sums = {n: torch.tensor(v, device=device) for n, v in sums.items() if n not in _COUNTS}
        self.history = [r for r in self.history if r["step"] <= step and r["epoch"] <= epoch]
        self._begin = time.monotonic()

    def forget_after(self, step: int, epoch: int) -> None:
        """Drop from the file too what came after that moment."""
        if self._writes:
            self.run.forget_after(step, epoch)

    def close_epoch(
        self,
        epoch: int,
        step: int,
        progress: float,
        lr: float,
        epsilon: float | None,
        validation: dict[str, float],
        noted: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Write the record of the epochs since the last one, and what else is noted; say it and warn if need be."""
        images, steps, seconds = (max(self._counts[name], 1e-9) for name in ("images", "steps", "seconds"))
        sums = {name: float(value) for name, value in self._sums.items()}
        gain = self.recipe.optimizer.long_run_step
        record = {
            "event": "epoch", "epoch": epoch, "step": step, "progress": progress, "lr": lr, "epsilon": epsilon,
            "effective_lr_over_batch": None if gain is None else lr * gain / self.recipe.batch_size,
            "seconds": seconds, "images_per_second": images / seconds,
            "train": {name: value / steps for name, value in sums.items()}, "validation": validation,
            **noted,
        }  # fmt: skip
        self.history.append(record)
        self._sums, self._counts, self._begin = {}, dict.fromkeys(_COUNTS, 0.0), time.monotonic()
        if self._writes:
            self._publish(record)

    def note(self, epoch: int, step: int, noted: Mapping[str, Any]) -> None:
        """Write what there is to say of an epoch that is not validated."""
        if self._writes:
            self._hand_on({"event": "noted", "epoch": epoch, "step": step, **noted})

    def begin_phase(self, epoch: int, step: int, phase: int, phases: int, trains: str) -> None:
        """Say and log that another phase of the regime trains from ``step`` on; 0 is the first of ``phases``."""
        if self._writes:
            self.bars.say(f"phase {phase + 1} of {phases}: {trains}")
            self.run.log({"event": "phase", "epoch": epoch, "step": step, "phase": phase, "trains": trains})

    def warn(self, epoch: int, step: int, kind: str, detail: str) -> None:
        """Say it and log it."""
        if self._writes:
            self.bars.say(f"warning: {kind.replace('_', ' ')}: {detail}")
            self.run.log({"event": "warning", "epoch": epoch, "step": step, "kind": kind, "detail": detail})

    def _publish(self, record: dict[str, Any]) -> None:
        self._hand_on(record)
        self.bars.say(
            f"epoch {record['epoch']}/{self.recipe.epochs}  loss {record['train'].get('loss', 0.0):.3f}  "
            f"{accuracies_text(record['validation'])}  {record['images_per_second']:.0f} images/s"
        )
        guards = self.recipe.guards
        how = {"attacks": self._attacks, "collapse": guards.collapse, "advise": guards.catastrophic == "warn"}
        for warning in warnings_of(self.history, self._num_classes, **how):
            self.warn(record["epoch"], record["step"], warning["kind"], warning["detail"])

    def _hand_on(self, record: dict[str, Any]) -> None:
        self.run.log(record)
        for tracker in self.trackers:
            tracker.log(record)


def accuracies_text(validation: dict[str, Any] | None) -> str:
    """``validation: clean 97.2 % robust 88.1 %``."""
    if validation is None:
        return ""
    clean, robust = percent(validation["clean_accuracy"]), percent(validation["robust_accuracy"])
    return f"validation: clean {clean} robust {robust}"
