"""The two pictures that claims draw: curves over training or along a dial, and accuracies as dots, one a seed."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..display.drawing import png

COLOURS = ("#4477aa", "#cc6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777")
Curve = tuple[Sequence[float], Sequence[float]]
"""Places and values."""


def curves(panels: Mapping[str, Mapping[str, Sequence[Curve]]], xlabel: str, ylabel: str) -> bytes:
    """One panel for each title; in it a colour for each name, and a line for each seed."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    axes_of = drawing.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, lines) in zip(axes_of, panels.items(), strict=True):
        for colour, (name, seeds) in zip(COLOURS, lines.items(), strict=False):
            for number, (places, values) in enumerate(seeds):
                label = name if number == 0 else None
                axes.plot(places, [100 * v for v in values], "o-", color=colour, markersize=3, label=label, alpha=0.8)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(xlabel)
        axes.set_ylim(-2, 102)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    axes_of[0].set_ylabel(ylabel)
    return png(drawing)


def dots(rows: Mapping[str, Mapping[str, Sequence[float]]], xlabel: str = "accuracy, %") -> bytes:
    """A row for each net; in it a colour for each quantity, and a dot for each seed."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7, 1.1 + 0.42 * len(rows)), layout="constrained")
    axes = drawing.subplots()
    quantities = list(dict.fromkeys(name for values in rows.values() for name in values))
    for number, (colour, quantity) in enumerate(zip(COLOURS, quantities, strict=False)):
        label: Any = quantity
        offset = 0.22 * (number - (len(quantities) - 1) / 2)
        for place, values in enumerate(rows.values()):
            found = [100 * value for value in values.get(quantity, ())]
            axes.plot(found, [place + offset] * len(found), "o", color=colour, markersize=6, alpha=0.7, label=label)
            label = None if found else label
    axes.set_yticks(range(len(rows)), [*rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-2, 102)
    axes.set_xlabel(xlabel)
    axes.grid(axis="x", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    drawing.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return png(drawing)
