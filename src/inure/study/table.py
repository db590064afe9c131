"""The table of a study: mean, standard deviation, every seed, and differences to the reference."""

from collections.abc import Sequence
from typing import Any

from ..display.console import percent, points
from .results import CellResult, compared, mean_and_deviation

_PLAIN = ["run", "clean (mean, sd)", "robust (mean, sd)", "robust by seed"]
_PAIRED = ["clean difference", "robust difference", "robust difference by seed [95 %]"]
_COUNTS = ["seeds", "failed"]


def header_of(cells: Sequence[CellResult]) -> list[str]:
    """The columns; differences only where there is something to compare with."""
    return [
        *_PLAIN,
        *(f"{suite} (mean, sd)" for suite in _also(cells)),
        *(_PAIRED if compared(cells) else []),
        *_COUNTS,
    ]


def rows_of(cells: Sequence[CellResult]) -> list[list[Any]]:
    """A row for each cell; accuracies in percent, differences in percentage points."""
    paired = compared(cells)
    return [
        [
            cell.name,
            _spread(cell.values("clean_accuracy"), sign="", unit=" %"),
            _spread(cell.values("robust_accuracy"), sign="", unit=" %"),
            "; ".join(percent(value) for value in cell.robust_accuracy) or "-",
            *(_spread([v for v in cell.also[suite] if v is not None], sign="", unit=" %") for suite in _also(cells)),
            *(_differences(cell) if paired else []),
            len(cell.seeds),
            len(cell.failures),
        ]
        for cell in cells
    ]


def short_table(cells: Sequence[CellResult]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows for a terminal: no single seeds."""
    paired = compared(cells)
    also = [*_also(cells)]
    columns = ["run", "clean", "robust", *also, *(["clean diff.", "robust diff."] if paired else []), "seeds"]
    rows = []
    for cell, row in zip(cells, rows_of(cells), strict=True):
        failed = f", {len(cell.failures)} failed" if cell.failures else ""
        rows.append(
            [
                *row[:3],
                *row[4:][: len(also)],
                *(row[4 + len(also) :][:2] if paired else []),
                f"{len(cell.seeds)}{failed}",
            ]
        )
    return columns, rows


def _also(cells: Sequence[CellResult]) -> dict[str, list[float | None]]:
    """The further suites, which are the same for all cells."""
    return cells[0].also if cells else {}


def _differences(cell: CellResult) -> list[str]:
    if cell.against is None:
        return ["reference", "reference", ""]
    found = [cell.differing(quantity) for quantity in ("clean_accuracy", "robust_accuracy")]
    means = [_spread([one.difference for one in column], sign="+", unit="") for column in found]
    return [*means, "; ".join(points(one.difference, one.interval95) for one in found[1]) or "-"]


def _spread(values: Sequence[float], *, sign: str, unit: str) -> str:
    if not values:
        return "-"
    mean, deviation = mean_and_deviation(values)
    spread = "" if deviation is None else f" ± {100 * deviation:.1f}"
    return f"{100 * mean:{sign}.1f}{spread}{unit}"
