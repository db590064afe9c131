"""The figure of a study: accuracies of all cells and, beside them, paired differences to the reference."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..display.drawing import png
from .results import CellResult, compared, mean_and_deviation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINES = {"clean_accuracy": ("#4477aa", -0.17), "robust_accuracy": ("#cc6677", 0.17)}
"""Quantity: colour, and place within a cell's row."""


def figure_of(cells: Sequence[CellResult], title: str = "") -> bytes:
    """A PNG with a row for each cell.

    Left: diamonds are means over seeds, bars standard deviations, dots seeds. Right, where cells have a reference:
    dots are seeds with the 95 % interval of the paired difference, diamonds means over seeds.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    paired = compared(cells)
    drawing = Figure(figsize=(11 if paired else 7, 1.5 + 0.42 * len(cells)), layout="constrained")
    panels = drawing.subplots(1, 2 if paired else 1, sharey=True, squeeze=False)[0]
    _accuracies(panels[0], cells)
    panels[0].set_yticks(range(len(cells)), [cell.name for cell in cells])
    panels[0].set_ylim(len(cells) - 0.5, -0.5)
    if paired:
        _differences(panels[1], cells)
    for axes in panels:
        for row in range(0, len(cells), 2):
            axes.axhspan(row - 0.5, row + 0.5, color="0.955", zorder=0)
        axes.grid(axis="x", color="0.88", zorder=0)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
    handles = [Line2D([], [], color=c, marker="D", label=q.split("_")[0]) for q, (c, _) in _LINES.items()]
    drawing.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False)
    if title:
        drawing.suptitle(title, x=0.01, ha="left", fontsize=10)
    return png(drawing)


def _accuracies(axes: "Axes", cells: Sequence[CellResult]) -> None:
    for quantity, (colour, place) in _LINES.items():
        for row, cell in enumerate(cells):
            values = [100 * value for value in cell.values(quantity)]
            if values:
                mean, deviation = mean_and_deviation(values)
                _seeds(axes, values, row + place, colour)
                axes.errorbar(
                    mean, row + place, xerr=deviation, fmt="D", color=colour, markersize=5, capsize=3, zorder=3
                )  # fmt: skip
    for row, cell in enumerate(cells):
        if cell.failures and not cell.seeds:
            reason = cell.failures[0].partition(": ")[2].partition(": loss")[0]
            axes.text(1, row, f"failed: {reason[:60]}", va="center", fontsize=8)
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy, % (mean, sd; dots: seeds)")


def _differences(axes: "Axes", cells: Sequence[CellResult]) -> None:
    for row, cell in enumerate(cells):
        if cell.against is None:
            axes.text(0, row, "reference", ha="center", va="center", fontsize=8, color="0.35", backgroundcolor="white")
    for quantity, (colour, place) in _LINES.items():
        for row, cell in enumerate(cells):
            found = cell.differing(quantity)
            for number, one in enumerate(found):
                # Seeds beside each other, within the band of their quantity
                height = row + place + 0.16 * ((number + 0.5) / len(found) - 0.5)
                low, high = (100 * abs(end - one.difference) for end in one.interval95)
                axes.errorbar(
                    100 * one.difference, height, xerr=[[low], [high]], fmt="o", color=colour, markersize=2.5,
                    elinewidth=0.9, alpha=0.6,
                )  # fmt: skip
            if found:
                mean, _ = mean_and_deviation([one.difference for one in found])
                axes.plot(100 * mean, row + place, "D", color=colour, markersize=5, zorder=3)
    axes.axvline(0, color="0.3", linewidth=0.9, zorder=1)
    axes.set_xlabel("difference to the reference, points (seeds: 95 %)")


def _seeds(axes: "Axes", values: Sequence[float], height: float, colour: str) -> None:
    axes.plot(values, [height] * len(values), "o", color=colour, markersize=3, alpha=0.5, zorder=2)
