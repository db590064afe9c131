"""The kept checkpoints on the page: what they reached on the validation split, and by what the best was chosen."""

from dataclasses import dataclass
from typing import Any

from .names import deciding_metric
from .run_files import RunFiles, whole
from .scores import Score, score_of


@dataclass(frozen=True)
class Checkpoint:
    """Validation accuracies of a kept checkpoint."""

    name: str
    epoch: int
    clean: Score | None
    robust: Score | None
    deciding: Score | None
    """By what the best was chosen, where that is neither of the two."""
    selected: bool


def kept_checkpoints(run: RunFiles) -> list[Checkpoint]:
    """The best and the last one, as far as ``run.json`` knows them."""
    found, metric = [], deciding_metric(run.recipe)
    for name in ("best", "last"):
        values: Any = run.run.get(name)
        if isinstance(values, dict):
            clean, robust = (score_of(values.get(f"{kind}_accuracy"), 0) for kind in ("clean", "robust"))
            plain = metric in ("", "clean_accuracy", "robust_accuracy")
            deciding = None if plain else score_of(values.get(metric), 0)
            is_selected = run.run.get("selected") == name
            found.append(Checkpoint(name, whole(values.get("epoch")), clean, robust, deciding, is_selected))
    return found
