"""Robust overfitting (Rice et al., 2020, arXiv:2002.11569): how much of the best robust accuracy is lost by the end.

While a net is trained on, its accuracy against attacks on images that it has not seen rises, then falls, though clean
accuracy still rises and the training loss still falls. Early stopping on the validation split avoids it
(``checkpoint.select=best``); weight averages (EMA, SWA), AWP and temporal ensembling reduce it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..display.console import percent


def overfitting(history: Sequence[Mapping[str, Any]], examples: int) -> dict[str, Any] | None:
    """What the validations of a run say; None with fewer than two of them.

    The largest of many noisy accuracies is too large, so a gap alone proves nothing: it begins to count where all
    later validations lie below the best one by more than chance would have two accuracies of equal nets differ.

    Args:
        history: Epoch records of metrics.jsonl, oldest first.
        examples: Attacked validation images.

    Returns:
        ``best``, ``last``: robust validation accuracy; ``best_epoch``, ``last_epoch``; ``gap``: best minus last;
        ``begins``: the first epoch after the best from which on every validation lies below ``best`` by more than
        1.96 standard errors of a difference of two independent shares of ``examples``, None if there is none.
    """
    from ..evaluation.intervals import Z95  # here: reports read the sentence without all that evaluates

    seen = [(int(r["epoch"]), float(r["validation"]["robust_accuracy"])) for r in history]
    if len(seen) < 2:
        return None
    best_epoch, best = max(seen, key=lambda pair: (pair[1], -pair[0]))
    last_epoch, last = seen[-1]
    floor = best - Z95 * math.sqrt(2 * best * (1 - best) / max(examples, 1))
    begins = None
    for epoch, robust in reversed([pair for pair in seen if pair[0] > best_epoch]):
        if robust >= floor:
            break
        begins = epoch
    return {
        "best": best, "best_epoch": best_epoch, "last": last, "last_epoch": last_epoch, "gap": best - last,
        "begins": begins,
    }  # fmt: skip


def overfitting_text(found: Mapping[str, Any]) -> str:
    """``robust overfitting: best 53.1 % (epoch 106), last 45.6 % (epoch 200): ...``."""
    if found["best_epoch"] == found["last_epoch"]:
        return f"robust validation accuracy: {percent(found['last'])}, at its best in the last epoch"
    ends = (
        f"best {percent(found['best'])} (epoch {found['best_epoch']}), "
        f"last {percent(found['last'])} (epoch {found['last_epoch']})"
    )
    if found["begins"] is None:
        return f"robust validation accuracy: {ends}: no more than chance apart"
    return (
        f"robust overfitting: {ends}: by more than chance below the best from epoch {found['begins']} on; try "
        "checkpoint.select=best, averaging.kind=ema or perturbation.kind=awp"
    )
