"""What adversarial training images were predicted as, epoch by epoch, beside how many of each class there are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .figures import ROBUST, draw_svg, shorten
from .run_files import RunFiles, dig, number

if TYPE_CHECKING:
    import numpy
    from markupsafe import Markup
    from matplotlib.axes import Axes

_TITLE = "What adversarial training images were predicted as"
_LABELLED = 20
"""Up to so many classes have names and numbers."""


def prediction_figures(runs: Sequence[RunFiles]) -> "list[tuple[str, Markup]]":
    """(run, figure) for every run that counted its predictions."""
    found = []
    for position, run in enumerate(runs):
        counted = _counted(run)
        if counted:
            found.append((run.name, _figure(run, counted, f"predictions{position}")))
    return found


def _counted(run: RunFiles) -> list[tuple[int, list[float]]]:
    """Epoch and predictions by class, validated or not; records that do not fit the first one are left out."""
    pairs = [(int(record["epoch"]), record.get("adversarial_predictions")) for record in run.looks]
    known = [(epoch, counts) for epoch, counts in pairs if isinstance(counts, list) and counts]
    return [
        (epoch, counts)
        for epoch, counts in known
        if len(counts) == len(known[0][1]) and all(number(count) is not None for count in counts)
    ]


def _figure(run: RunFiles, counted: list[tuple[int, list[float]]], name: str) -> "Markup":
    import numpy as np

    counts = np.array([column for _, column in counted], dtype=float).T
    classes = len(counts)
    labels, names = dig(run.run, "data.class_counts"), run.run.get("class_names")
    there = isinstance(labels, list) and len(labels) == classes and all(number(count) is not None for count in labels)
    rows = [str(n) for n in names] if isinstance(names, list) and len(names) == classes else [*map(str, range(classes))]

    def draw(axes: "Axes") -> None:
        _draw(axes, counts, np.array(labels, dtype=float)[:, None] if there else None)
        _dress(axes, [epoch for epoch, _ in counted], rows, classes)

    zeros, last = int((counts[:, -1] == 0).sum()), counted[-1][0]
    described = f"{_TITLE}, by class and epoch, for {run.name}: in epoch {last} none as {zeros} of {classes} classes"
    height = 1.1 + 0.24 * min(classes, _LABELLED)
    return draw_svg(draw, name, described, size=(7.2, height), layout="constrained")


def _draw(axes: "Axes", counts: "numpy.ndarray", labels: "numpy.ndarray | None") -> None:
    """The epochs from 0 to the right, the labels in a column of their own left of 0."""
    classes, epochs = counts.shape
    most, side = max(counts.max(), 1 if labels is None else labels.max(), 1), epochs / 10
    axes.imshow(_shades(counts, most), extent=(0, epochs, classes, 0), interpolation="nearest", aspect="auto")
    left = 0.0
    if labels is not None:
        left, gap = -1.2 * side, -0.2 * side
        axes.imshow(_shades(labels, most), extent=(left, gap, classes, 0), interpolation="nearest", aspect="auto")
    axes.set_xlim(left, epochs)
    axes.set_ylim(classes, 0)
    axes.grid(False)
    for row in range(classes if classes <= _LABELLED else 0):
        if labels is not None:
            axes.text(left / 2 - 0.1 * side, row + 0.5, f"{labels[row, 0]:.0f}", ha="center", va="center", fontsize=7)
        axes.text(epochs * 1.01, row + 0.5, f"{counts[row, -1]:.0f}", ha="left", va="center", fontsize=7)


def _shades(counts: "numpy.ndarray", most: float) -> "numpy.ndarray":
    """(H, W, 4). The square root keeps a few predictions apart from none."""
    import numpy as np

    image = np.empty((*counts.shape, 4))
    image[..., :3] = [int(ROBUST[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    image[..., 3] = np.sqrt(counts / most)
    return image


def _dress(axes: "Axes", epochs: list[int], rows: list[str], classes: int) -> None:
    step = max(1, -(-len(epochs) // 10))
    places = [*range(len(epochs) - 1, -1, -step)][::-1]
    left = axes.get_xlim()[0]
    ticks, words = [place + 0.5 for place in places], [str(epochs[place]) for place in places]
    if left < 0:
        ticks, words = [left * 7 / 12, *ticks], ["labels", *words]
    axes.set_xticks(ticks, words)
    axes.set(title=_TITLE, xlabel="epoch", ylabel="class")
    if classes <= _LABELLED:
        axes.set_yticks([row + 0.5 for row in range(classes)], [shorten(row, 14) for row in rows])
