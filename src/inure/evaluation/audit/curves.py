"""The two curves of an audit: success against the radius, loss against the step. Plain data, fit for JSON."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...threat import L1, L2, Geometry
from ...types import Images
from .watch import Steps

Curves = dict[str, Any]
RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Radii of the curve over epsilon, beside 0."""
_LAST = 10
"""The last one in so many steps tells whether a search converged."""


def furthest(threat: Geometry, x: Images) -> float:
    """The largest distance of two images: the radius from which on a ball holds all of [0, 1]."""
    coordinates = x[0].numel()
    if isinstance(threat, L2):
        return math.sqrt(coordinates)
    return float(coordinates) if isinstance(threat, L1) else 1.0


def radii_of(threat: Geometry, largest: float) -> list[float]:
    """Those of the curve, rising, 0 left out; none twice, and none over the largest distance."""
    return sorted({min(ratio * float(threat.epsilon), largest) for ratio in RATIOS} - {0.0})


def curves_of(
    threat: Geometry, classes: int, radii: Sequence[tuple[float, Tensor]], steps: Steps | None, half: int
) -> Curves:
    """What ``audit_figure`` draws.

    Args:
        threat: Its radius is marked.
        classes: So many decide what chance is.
        radii: Radius and (N,) who stands, rising from 0.
        steps: Of the long run; None if nothing was attacked.
        half: At how many of its steps the search ends of which it is twice as long.
    """
    epsilon = float(threat.epsilon)
    points = [
        {"radius": radius, "ratio": number(radius / epsilon) if epsilon else None, "standing": int(mask.sum()),
         "robust_accuracy": float(mask.double().mean()), "misclassified": 1 - float(mask.double().mean())}
        for radius, mask in radii
    ]  # fmt: skip
    success = {"threat": threat.kind, "epsilon": epsilon, "chance": 1 - 1 / classes, "points": points}
    mean, best = ([], []) if steps is None else _losses(steps.loss)
    return {"success": success, "loss": {"steps": half, "mean": mean, "best": best}}


def last_part(best: Sequence[float | None]) -> float | None:
    """The share of the whole rise of a curve that its last tenth brings; None without a rise, or if not finite."""
    known = [value for value in best if value is not None]
    if len(known) < max(2, len(best)) or known[-1] <= known[0]:
        return None
    last = max(1, (len(known) - 1) // _LAST)
    return (known[-1] - known[-1 - last]) / (known[-1] - known[0])


def number(value: float | Tensor) -> float | None:
    """A finite number, or None, since JSON has no others."""
    value = float(value)
    return value if math.isfinite(value) else None


def _losses(loss: Tensor) -> tuple[list[float | None], list[float | None]]:
    """Means over examples, step by step: of the loss there, and of the best so far."""
    best = torch.where(loss.isnan(), -torch.inf, loss).cummax(0).values
    mean, top = (values.double().mean(1).tolist() for values in (loss, best))
    return [number(v) for v in mean], [number(v) for v in top]
