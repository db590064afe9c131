"""Evaluations on several sets, corrupted or shifted, on the page: a heat map, the means, and every set."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from .figures import CLEAN, ROBUST
from .notices import is_verified
from .run_files import EvaluationFiles, RunFiles, dig, number, records, whole
from .scores import Score, score_of
from .settings_text import plain, threat_text

_MOST_ALPHA = 0.8
"""Opacity of a cell at 100 %: the ink of the page, dark or light, stays readable on it."""
_AS_IT_IS = "as it is"


@dataclass(frozen=True)
class Cell:
    """One square of a heat map."""

    text: str
    colour: str
    """``#rrggbbaa``: the more opaque, the higher."""


@dataclass(frozen=True)
class HeatMap:
    """Accuracies on the sets by row and column, with the means at the edges."""

    kind: str
    """``clean`` or ``robust``."""
    columns: list[str]
    rows: list[tuple[str, list[Cell | None]]]
    """Each with its mean at the end; the last row holds the means of the columns."""

    @property
    def by_severity(self) -> bool:
        """Whether columns are severities."""
        return self.columns != [_AS_IT_IS]


@dataclass(frozen=True)
class ShiftedPart:
    """One evaluation on several sets."""

    run: str
    setting: str
    means: list[tuple[str, Score | None, Score | None]]
    """What, clean and robust accuracy: on the images as they are, and over the sets."""
    maps: list[HeatMap]
    sets: list[tuple[str, int, Score | None, Score | None]]
    """SPEC, examples, clean and robust accuracy."""
    attacked: bool
    verified: bool


def shifted_parts(runs: Sequence[RunFiles]) -> list[ShiftedPart]:
    """Every evaluation on several sets, of every run; sets without an accuracy are left out."""
    return [part for run in runs for found in run.shifted if (part := _part(run, found)) is not None]


def _part(run: RunFiles, found: EvaluationFiles) -> ShiftedPart | None:
    summary = found.summary
    sets = [entry for entry in records(summary.get("sets")) if number(entry.get("clean_accuracy")) is not None]
    if not sets:
        return None
    attacked = all(number(entry.get("robust_accuracy")) is not None for entry in sets)
    alone = ("images as they are", *_scores(summary, whole(summary.get("examples"))))
    # The examples of all sets bear the interval if the file has none
    together = (
        f"mean of {len(sets)} sets",
        *_scores(dig(summary, "mean"), sum(whole(e.get("examples")) for e in sets)),
    )
    return ShiftedPart(
        run=run.name,
        setting=_setting(summary, attacked),
        means=[row for row in (alone, together) if row[1] is not None],
        maps=[_heat_map(sets, kind) for kind in ("clean", "robust")[: 1 + attacked]],
        sets=[(str(e.get("name", "?")), whole(e.get("examples")), *_scores(e, whole(e.get("examples")))) for e in sets],
        attacked=attacked,
        verified=is_verified(found),
    )


def _scores(tree: Any, total: int) -> tuple[Score | None, Score | None]:
    clean, robust = (
        score_of(dig(tree, f"{kind}_accuracy"), total, dig(tree, f"interval95.{kind}")) for kind in ("clean", "robust")
    )
    return clean, robust


def _setting(summary: dict[str, Any], attacked: bool) -> str:
    parts = [f"suite {summary.get('suite', '?')}"]
    if attacked and summary.get("threat"):
        parts.append(threat_text(*str(summary["threat"]).partition(":")[::2]))
    if mode := summary.get("mode"):
        parts.append(f"mix {plain(mode)}")
    return " · ".join(parts)


def _heat_map(sets: Sequence[dict[str, Any]], kind: str) -> HeatMap:
    """Corruptions by severity, the others in a column of their own."""
    several = len({entry.get("base") for entry in sets if entry.get("corruption")}) > 1
    found: dict[str, dict[str, float]] = {}
    for entry in sets:
        found.setdefault(_row_name(entry, several), {})[_column(entry)] = float(entry[f"{kind}_accuracy"])
    columns = sorted({column for row in found.values() for column in row}, key=lambda c: (c == _AS_IT_IS, c))
    lines = [(name, [*map(row.get, columns), mean([*row.values()])]) for name, row in found.items()]
    edge = [mean([row[c] for row in found.values() if c in row]) for c in columns]
    lines.append(("mean", [*edge, mean([share for row in found.values() for share in row.values()])]))
    colour = CLEAN if kind == "clean" else ROBUST
    return HeatMap(kind, columns, [(name, [_cell(share, colour) for share in line]) for name, line in lines])


def _column(entry: dict[str, Any]) -> str:
    return str(entry.get("severity", "?")) if entry.get("corruption") else _AS_IT_IS


def _row_name(entry: dict[str, Any], several: bool) -> str:
    """The corruption; the SPEC of a set that is none; both where several sets are corrupted."""
    base, kind = str(entry.get("base") or entry.get("name", "?")), str(entry.get("corruption") or "").replace("_", " ")
    return (f"{base}: {kind}" if several else kind) if kind else base


def _cell(share: float | None, colour: str) -> Cell | None:
    if share is None:
        return None
    alpha = round(255 * _MOST_ALPHA * min(max(share, 0.0), 1.0))
    return Cell(f"{100 * share:.1f}", f"{colour}{alpha:02x}")
