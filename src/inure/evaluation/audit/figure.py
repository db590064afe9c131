"""The two curves of an audit as one picture."""

from typing import Any

from ...display.drawing import png
from .curves import Curves

_BLUE, _RED, _GREY = "#4477aa", "#cc6677", "0.55"


def draw_curves(curves: Curves) -> bytes:
    """A PNG: misclassified examples against the radius on the left, the loss against the step on the right."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = drawing.subplots(1, 2)
    _success(left, curves["success"])
    _loss(right, curves["loss"])
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return png(drawing)


def _success(axes: Any, success: dict[str, Any]) -> None:
    points, epsilon = success["points"], success["epsilon"]
    # Side by side whatever the radii, which double from point to point and begin with 0
    axes.plot([100 * p["misclassified"] for p in points], "o-", color=_RED, markersize=4, label="under PGD")
    axes.axhline(100 * success["chance"], color=_GREY, linestyle=":", label="guessing at random")
    marked = max((i for i, point in enumerate(points) if point["radius"] <= epsilon), default=0)
    axes.axvline(marked, color=_BLUE, linestyle="--", label=f"epsilon = {epsilon:.4g}")
    axes.set_xticks(range(len(points)), [_tick(point) for point in points])
    axes.set_ylim(-2, 102)
    axes.set_xlabel(f"radius ({success['threat']}), below it over epsilon")
    axes.set_ylabel("misclassified, % of all examples")
    axes.set_title("success against the radius: must not fall", fontsize=10)
    _legend(axes, "upper left")


def _tick(point: dict[str, Any]) -> str:
    ratio = "clean" if not point["radius"] else f"{point['ratio']:.3g}"
    return f"{point['radius']:.3g}\n{ratio}"


def _loss(axes: Any, loss: dict[str, Any]) -> None:
    for name, label, style, colour in (("best", "best so far", "-", _RED), ("mean", "at the step", "--", "0.2")):
        values = [float("nan") if value is None else value for value in loss[name]]
        axes.plot(range(len(values)), values, style, color=colour, linewidth=1.4, label=label)
    axes.axvline(loss["steps"], color=_BLUE, linestyle="--", label=f"{loss['steps']} steps; beyond: twice as many")
    axes.set_xlabel("step of PGD")
    axes.set_ylabel("mean cross-entropy")
    axes.set_title("loss against the step: must be flat at the end", fontsize=10)
    _legend(axes, "lower right")


def _legend(axes: Any, place: str) -> None:
    axes.legend(fontsize=8, loc=place, edgecolor="none", framealpha=0.9)
