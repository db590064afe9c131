"""Counts what class adversarial images are predicted as, epoch by epoch (REAT, arXiv:2307.10205)."""

from __future__ import annotations

from typing import Literal

from ..libraries import Tensor, torch
from ..memory import Facts, everywhere
from ..settings.config import Settings
from ..types import Batch, Logits, Memory

_LAST, _NOW = "counter.last", "counter.now"


class Counter(Settings):
    """m: the histogram of the predictions on the training's adversarial images in the epoch before; m = n at first.

    Predictions are the argmax of the logits of the outer forward: train mode, no prior added, before the update. Over
    one epoch they sum to the images that were trained on: all of them but the last batch if a single one is left over;
    more by the few that several processes see twice to have equally many; A times as many with A attacks
    (co-training), m times with m replays (Free). A method without an attack has its clean images counted.
    """

    kind: Literal["counter"] = "counter"

    def remember(self, facts: Facts) -> Memory:
        """(K,) each: the counts of the last epoch, and those of this one so far."""
        return {_LAST: facts.class_counts.clone(), _NOW: torch.zeros_like(facts.class_counts)}

    def observe(self, batch: Batch, logits: Logits) -> None:
        """Add the predictions of a step, those of all processes."""
        predicted, now = everywhere(logits.argmax(1)), batch.memory[_NOW]
        now.index_add_(0, predicted, now.new_ones(len(predicted)))

    def end_epoch(self, memory: Memory) -> dict[str, list[int]]:
        """What was counted is the last epoch's from here on; it goes into the record."""
        memory[_LAST].copy_(memory[_NOW])
        memory[_NOW].zero_()
        return {"adversarial_predictions": [int(count) for count in memory[_LAST].tolist()]}


def last_counts(memory: Memory) -> Tensor:
    """(K,): predictions of the last epoch by class."""
    return memory[_LAST]
