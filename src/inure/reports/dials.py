"""The soups of a run on its page: both accuracies along the dial, and which soups were chosen."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .figures import CLEAN, ROBUST, draw_svg
from .run_files import RunFiles, dig, number, records
from .settings_text import evaluation_text

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Dial:
    """One sweep of soups."""

    run: str
    setting: str
    """What was attacked with what."""
    data: str
    figure: "Markup"
    chosen: list[tuple[str, str, float, float]]
    """(rule, mix, clean, robust) accuracies in percent."""


def dials(runs: Sequence[RunFiles]) -> list[Dial]:
    """Every sweep of every run; files that cannot be read are left out and named among the run's problems."""
    found = []
    for run in runs:
        for path in sorted((run.path / "soups").glob("*/soup.json")):
            dial = _read(run, path, f"dial{len(found)}")
            if dial is None:
                run.problems.append(f"{path.parent.name}/soup.json could not be read")
            else:
                found.append(dial)
    return found


def _read(run: RunFiles, path: Path, name: str) -> Dial | None:
    try:
        result: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    soups = [s for s in records(dig(result, "soups")) if isinstance(s.get("weights"), dict)]
    values = [(number(s.get("clean_accuracy")), number(s.get("robust_accuracy"))) for s in soups]
    if not soups or any(clean is None or robust is None for clean, robust in values):
        return None
    points = [(100 * clean, 100 * robust) for clean, robust in values if clean is not None and robust is not None]
    by_mix = {str(s.get("mix")): point for s, point in zip(soups, points, strict=True)}
    rules = dig(result, "chosen")
    chosen = [
        (str(rule), str(mix), *by_mix[str(mix)])
        for rule, mix in (rules.items() if isinstance(rules, dict) else ())
        if str(mix) in by_mix
    ]
    protocol = dig(result, "protocol") or {}
    setting = evaluation_text({**protocol, "attacks": [{"name": protocol.get("suite", "?")}]})
    figure = _figure([s["weights"] for s in soups], points, name)
    return Dial(run.name, setting, str(protocol.get("data", "?")), figure, chosen)


def _figure(weights: list[dict[str, float]], points: list[tuple[float, float]], name: str) -> "Markup":
    domains = list(weights[0])
    clean, robust = zip(*points, strict=True)

    def along(axes: "Axes") -> None:
        last = domains[-1]
        places = [number(w.get(last)) or 0.0 for w in weights]
        for end in (0, 1):
            axes.axvline(end, color="#010203", linewidth=0.8, linestyle=":", zorder=0)
        axes.plot(places, clean, "o-", color=CLEAN, markersize=3)
        axes.plot(places, robust, "o-", color=ROBUST, markersize=3)
        axes.set(title="Accuracy, %", xlabel=f"weight of {last}; the rest is {domains[0]}", ylim=(-2, 102))

    def against(axes: "Axes") -> None:
        axes.plot(clean, robust, "o", color=ROBUST, markersize=3)
        axes.set(title="Robust accuracy, %", xlabel="clean accuracy, %")

    described = f"Clean and robust accuracy of {len(points)} soups"
    return draw_svg(along if len(domains) == 2 else against, name, described, size=(6.4, 2.9))
