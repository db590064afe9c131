"""What several pictures share: heat maps with figures in their cells, and drawings as PNG. matplotlib comes late."""

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_DARK = 0.7
"""From which share of a colour scale on, counted from its middle, figures in it are white."""


def png(drawing: "Figure") -> bytes:
    """The file of a drawing, 150 dots per inch."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def heat_map(
    axes: "Axes",
    values: Sequence[Sequence[float | None]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    limits: tuple[float, float] = (0, 100),
    fontsize: float = 7,
    dark: float = _DARK,
) -> "AxesImage":
    """Draw a table as colours, from red over white to blue, with its figures in the cells.

    Args:
        axes: Where.
        values: By row and column; None leaves a cell empty.
        rows: Labels of the rows; none, where another panel has them already.
        columns: Labels of the columns.
        limits: Values that get the two ends of the colours.
        fontsize: Of the figures.
        dark: From which share of the scale on, counted from its middle, figures are white.

    Returns:
        The image, for a colour bar.
    """
    low, high = limits
    cells = [[math.nan if value is None else value for value in row] for row in values]
    image = axes.imshow(cells, cmap="RdBu", vmin=low, vmax=high, aspect="auto")
    for place, row in enumerate(cells):
        for column, value in enumerate(row):
            if math.isnan(value):
                continue
            colour = "white" if abs(2 * (value - low) / (high - low) - 1) > dark else "black"
            axes.text(column, place, f"{value:.1f}", ha="center", va="center", fontsize=fontsize, color=colour)
    axes.set_xticks(range(len(columns)), columns)
    if rows:
        axes.set_yticks(range(len(rows)), rows)
    return image
