"""What the suites of several sets leave behind and show: tables by corruption and severity, and a heat map."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..display.console import markdown, percent, stderr, table, with_interval
from ..display.drawing import heat_map, png
from ..evaluation.results import SUMMARY
from ..machine import files
from .evaluation_output import show_flags

TABLE, PICTURE = "table.md", "heatmap.png"
FILES = (TABLE, PICTURE)
QUANTITIES = ("clean", "robust")
_AS_IT_IS = "as it is"
_LONGEST = 40


@dataclass(frozen=True)
class Grid:
    """Sets in rows and columns: a row for each corruption, a column for each severity; other sets have one column."""

    rows: list[str]
    columns: list[str]
    cells: dict[tuple[int, int], dict[str, Any]]
    """Row and column of every entry of ``sets``."""

    def shares(self, quantity: str) -> list[list[float | None]]:
        """Accuracies by row and column; None where there is no set, or nothing was measured."""
        columns = range(len(self.columns))
        return [
            [self.cells.get((row, column), {}).get(f"{quantity}_accuracy") for column in columns]
            for row in range(len(self.rows))
        ]


def grid_of(sets: Sequence[dict[str, Any]]) -> Grid:
    """Where each entry of ``sets`` stands in tables and pictures."""
    several = len({entry["base"] for entry in sets if entry["corruption"]}) > 1
    severities = sorted({str(entry["severity"]) for entry in sets if entry["corruption"]})
    columns = [*severities, *([_AS_IT_IS] if any(not entry["corruption"] for entry in sets) else [])]
    rows: dict[str, int] = {}
    cells = {}
    for entry in sets:
        row = rows.setdefault(_row_name(entry, several), len(rows))
        cells[row, columns.index(str(entry["severity"]) if entry["corruption"] else _AS_IT_IS)] = entry
    return Grid([*rows], columns, cells)


def write_sets(folder: Path, summary: dict[str, Any]) -> None:
    """table.md, heatmap.png and, last, summary.json."""
    files.write_text(folder / TABLE, _tables(summary))
    files.write_bytes(folder / PICTURE, picture(summary))
    files.write_json(folder / SUMMARY, summary)


def show_sets(summary: dict[str, Any], title: str) -> None:
    """Means by corruption, on stderr; sets that are no corruption stand by themselves."""
    measured = measured_in(summary)
    columns = ["", *(f"{quantity} [95 %]" for quantity in measured)]
    named = [(_row_name(entry, False), entry) for entry in summary["sets"] if not entry["corruption"]]
    parts = [*[(kind.replace("_", " "), means) for kind, means in summary["by_corruption"].items()], *named]
    parts = [("uncorrupted", summary), *parts] if summary["clean_accuracy"] is not None else parts
    rows = [_row(name, part, measured) for name, part in [*parts, ("mean", summary["mean"])]]
    console = stderr()
    console.print(f"{title}, {summary['mean']['sets']} sets", markup=False, style="italic", soft_wrap=True)
    console.print(table("", columns, rows))
    show_flags(console, summary)


def measured_in(summary: dict[str, Any]) -> list[str]:
    """``clean`` and, where all sets were attacked, ``robust``."""
    return [quantity for quantity in QUANTITIES if summary["mean"][f"{quantity}_accuracy"] is not None]


def picture(summary: dict[str, Any]) -> bytes:
    """One panel for each quantity."""
    from matplotlib.figure import Figure

    grid, measured = grid_of(summary["sets"]), measured_in(summary)
    size = (2.4 + len(measured) * (0.9 + 0.55 * len(grid.columns)), 1.1 + 0.3 * len(grid.rows))
    drawing = Figure(figsize=size, layout="constrained")
    panels = drawing.subplots(1, len(measured), sharey=True, squeeze=False)[0]
    images = []
    for axes, quantity in zip(panels, measured, strict=True):
        values = [[None if share is None else 100 * share for share in row] for row in grid.shares(quantity)]
        images.append(heat_map(axes, values, rows=grid.rows, columns=grid.columns))
        mean = percent(summary["mean"][f"{quantity}_accuracy"])
        axes.set_title(f"{quantity} accuracy, %; mean {mean}", fontsize=9)
        if grid.columns != [_AS_IT_IS]:
            axes.set_xlabel("severity")
    drawing.colorbar(images[0], ax=[*panels], shrink=0.8)
    return png(drawing)


def _tables(summary: dict[str, Any]) -> str:
    """For each quantity the sets, and the means at their edges."""
    grid, parts = grid_of(summary["sets"]), []
    for quantity in measured_in(summary):
        rows = []
        for name, shares in zip(grid.rows, grid.shares(quantity), strict=True):
            known = [share for share in shares if share is not None]
            rows.append([name, *map(percent, shares), percent(sum(known) / len(known))])
        below = summary["by_severity"]
        edge = [percent(below[c][f"{quantity}_accuracy"]) if c in below else "-" for c in grid.columns]
        mean = summary["mean"]
        total = with_interval(mean[f"{quantity}_accuracy"], mean["interval95"][quantity])
        parts.append(f"{quantity.capitalize()} accuracy{_setting(summary, quantity)}\n")
        parts.append(markdown(["", *grid.columns, "mean"], [*rows, ["mean", *edge, total]]))
        if (share := summary[f"{quantity}_accuracy"]) is not None:
            alone = with_interval(share, summary["interval95"][quantity])
            parts.append(f"On the {summary['examples']} images as they are: {alone}.\n")
    return "\n".join(parts)


def _setting(summary: dict[str, Any], quantity: str) -> str:
    return f", {summary['attack_suite']} under {summary['threat']}" if quantity == "robust" else ""


def _row(name: str, part: dict[str, Any], measured: list[str]) -> list[str]:
    return [
        name,
        *(with_interval(part[f"{quantity}_accuracy"], part["interval95"][quantity]) for quantity in measured),
    ]


def _row_name(entry: dict[str, Any], several: bool) -> str:
    """The corruption, or the end of the SPEC; both where several sets are corrupted."""
    base = entry["base"] if len(entry["base"]) <= _LONGEST else "…" + entry["base"][1 - _LONGEST :]
    if not entry["corruption"]:
        return base
    kind = entry["corruption"].replace("_", " ")
    return f"{base}: {kind}" if several else kind
