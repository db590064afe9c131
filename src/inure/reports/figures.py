"""Training curves and confusion matrices as inline SVG that takes its colours from the page, light or dark.

Legends are part of the page, not of the figures, so that they stay readable on a phone.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .panels import CLEAN, EXTRA, INK, PANELS, ROBUST, RUN_COLOURS, Line, Panel
from .run_files import RunFiles, dig, number

if TYPE_CHECKING:
    import numpy
    from markupsafe import Markup
    from matplotlib.axes import Axes

# Stand-ins which become CSS variables of the page, so that one figure serves light and dark mode.
_INK, _GRID, _PAPER = INK, "#010204", "#010205"
_VARIABLES = {_INK: "var(--ink)", _GRID: "var(--line)", _PAPER: "var(--paper)"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GRID,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": _INK,
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "figure.facecolor": "none",
}


def training_curves(runs: Sequence[RunFiles]) -> "list[Markup]":
    """One figure per quantity over the epochs, all runs in each; what no run recorded is left out."""
    figures = []
    long_tailed = any(dig(run.recipe, "data.long_tail") is not None for run in runs)
    for i, panel in enumerate(PANELS):
        if panel.long_tail and not long_tailed:
            continue
        if any(any(_values(run, line)[1]) for run in runs for line in panel.lines):
            draw = _panel_drawing(panel, runs)
            described = f"{panel.title} over epochs, for {', '.join(run.name for run in runs)}"
            figures.append(draw_svg(draw, f"curve{i}", described, size=(4.6, 2.5)))
    return figures


def confusion_figure(
    counts: "numpy.ndarray", rows: Sequence[str], columns: Sequence[str], *, name: str, title: str
) -> "Markup":
    """A confusion matrix; shade is the share within the row. Up to 20 classes it is labelled, with counts."""
    import numpy as np

    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    labelled = len(counts) <= 20
    colour = CLEAN if title.startswith("Clean") else ROBUST

    def draw(axes: "Axes") -> None:
        image = np.empty((*counts.shape, 4))
        # The square root keeps single mistakes visible next to a full diagonal.
        image[..., :3] = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        image[..., 3] = np.sqrt(shares)
        axes.imshow(image, interpolation="nearest", aspect="equal")
        axes.grid(False)
        axes.set(title=title, xlabel="prediction", ylabel="label", xticks=[], yticks=[])
        if labelled:
            _label_cells(axes, counts, shares, [shorten(n, 12) for n in rows], [shorten(n, 12) for n in columns])

    right = int(np.trace(counts))
    return draw_svg(draw, name, f"{title}: {right} of {int(counts.sum())} right", size=(4.6, 4.3), layout="constrained")


def _label_cells(
    axes: "Axes",
    counts: "numpy.ndarray",
    shares: "numpy.ndarray",
    rows: Sequence[str],
    columns: Sequence[str],
) -> None:
    slanted = max(map(len, columns)) > 2
    axes.set_xticks(range(len(columns)), columns, rotation=50 if slanted else 0)
    axes.set_yticks(range(len(rows)), rows)
    for label in axes.get_xticklabels() if slanted else []:
        label.set(ha="right", rotation_mode="anchor")
    for row, column in zip(*counts.nonzero(), strict=True):
        ink = "#ffffff" if shares[row, column] > 0.4 else _INK
        size = 8 if len(counts) <= 12 else 5.5
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=ink, fontsize=size)


def shorten(text: str, limit: int) -> str:
    """``text`` on one line, cut with an ellipsis."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _values(run: RunFiles, line: Line) -> tuple[list[int], list[float]]:
    points = [(int(record["epoch"]), number(dig(record, line.key))) for record in run.looks]
    known = [(epoch, value * line.scale) for epoch, value in points if value is not None]
    return [epoch for epoch, _ in known], [value for _, value in known]


def _panel_drawing(panel: Panel, runs: Sequence[RunFiles]) -> "Callable[[Axes], None]":
    def draw(axes: "Axes") -> None:
        drawn: list[float] = []
        lines: list[Line] = []
        for i, run in enumerate(runs):
            best = number(dig(run.run, "best.epoch"))
            for line in panel.lines:
                if line.colour == EXTRA and len(runs) > 1:
                    continue
                epochs, values = _values(run, line)
                if not values:
                    continue
                colour = line.colour if len(runs) == 1 else RUN_COLOURS[i % len(RUN_COLOURS)]
                marker = "o" if len(values) <= 12 else ""
                axes.plot(epochs, values, line.dashes, color=colour, marker=marker, markersize=3)
                if best in epochs:
                    axes.plot(best, values[epochs.index(int(best))], "D", color=colour, markersize=5, mec=_PAPER)
                drawn += values
                lines.append(line)
            if best is not None:
                colour = _INK if len(runs) == 1 else RUN_COLOURS[i % len(RUN_COLOURS)]
                axes.axvline(best, color=colour, linestyle=(0, (1, 2)), linewidth=0.8, zorder=0.9)
        axes.set_title(panel.title_of(lines))
        _dress(axes, panel, drawn)

    return draw


def _dress(axes: "Axes", panel: Panel, drawn: list[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    # By default there are at least two ticks, if need be between two epochs
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    if panel.unit == " %":
        axes.set_ylim(-3, 103)
        axes.yaxis.set_major_formatter("{x:.0f} %")
        return
    if panel.may_be_log and min(drawn) > 0 and max(drawn) > 100 * min(drawn):
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter("")
    elif min(drawn) >= 0:
        top = 1.08 * max(drawn) or 1
        axes.set_ylim(-0.03 * top, top)
    # After the scale, which brings a formatter of its own, in mathematical markup.
    axes.yaxis.set_major_formatter("{x:g}")


def draw_svg(
    draw: "Callable[[Axes], Any]", name: str, described: str, *, size: tuple[float, float], layout: Any = None
) -> "Markup":
    """Draws one figure and makes it fit to stand in a page: own ids, page colours, a description."""
    import matplotlib
    from markupsafe import Markup, escape
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # Class names may use scripts that the measuring font lacks; the browser has its own fonts.
        warnings.simplefilter("ignore")
        figure = Figure(figsize=size, layout=layout)
        # Fixed margins keep the axes of neighbouring figures in line.
        figure.subplots_adjust(left=0.13, right=0.985, top=0.89, bottom=0.17)
        draw(figure.add_subplot())
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text, count=2)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(described)}"', 1))  # noqa: S704
