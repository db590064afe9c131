"""Audits on the page: both curves, and every check with its answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .figures import EXTRA, ROBUST, draw_svg
from .run_files import RunFiles, dig, number, records, whole
from .settings_text import evaluation_text

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

_ANSWERS = {True: "passed", False: "failed", None: "not decidable"}


@dataclass(frozen=True)
class AuditPart:
    """The audit of one evaluation."""

    run: str
    setting: str
    counts: str
    """How many checks passed, in words."""
    figures: "list[Markup]"
    checks: list[tuple[str, str, str, str]]
    """(letter, question, answer, what was found)."""

    @property
    def failed(self) -> bool:
        """Whether any check did."""
        return any(answer == "failed" for _, _, answer, _ in self.checks)


def audits(runs: Sequence[RunFiles]) -> list[AuditPart]:
    """Every audit of every run; what holds no checks is left out."""
    found: list[AuditPart] = []
    for run in runs:
        for evaluation in run.evaluations:
            checks = [_check(check) for check in records(evaluation.audit.get("checks"))]
            if checks:
                setting = evaluation_text(evaluation.summary)
                figures = _figures(evaluation.audit, f"audit{len(found)}")
                found.append(AuditPart(run.name, setting, _counts(evaluation.audit, checks), figures, checks))
    return found


def _check(check: dict[str, Any]) -> tuple[str, str, str, str]:
    letter, question, detail = (str(check.get(key, "")) for key in ("letter", "question", "detail"))
    passed = check.get("passed")
    return letter, question, _ANSWERS[passed if isinstance(passed, bool) else None], detail


def _counts(audit: dict[str, Any], checks: list[tuple[str, str, str, str]]) -> str:
    counted = {answer: sum(check[2] == answer for check in checks) for answer in _ANSWERS.values()}
    said = ", ".join(f"{count} {answer}" for answer, count in counted.items() if count)
    return f"On {whole(dig(audit, 'subset.size'))} images: {said}."


def _figures(audit: dict[str, Any], name: str) -> "list[Markup]":
    success, loss = dig(audit, "curves.success"), dig(audit, "curves.loss")
    points = [
        (number(point.get("radius")), number(point.get("misclassified"))) for point in records(dig(success, "points"))
    ]
    known = [(radius, 100 * share) for radius, share in points if radius is not None and share is not None]
    figures = []
    if known:
        epsilon, chance = number(dig(success, "epsilon")), number(dig(success, "chance"))
        described = "Misclassified images against the radius of the attack"
        figures.append(
            draw_svg(lambda axes: _success(axes, known, epsilon, chance), f"{name}a", described, size=(4.6, 2.7))
        )
    best, mean = ([number(value) for value in dig(loss, key) or []] for key in ("best", "mean"))
    if any(value is not None for value in best):
        steps, described = whole(dig(loss, "steps")), "Loss of the attack against its step"
        figures.append(draw_svg(lambda axes: _loss(axes, best, mean, steps), f"{name}b", described, size=(4.6, 2.7)))
    return figures


def _success(axes: "Axes", points: list[tuple[float, float]], epsilon: float | None, chance: float | None) -> None:
    # Side by side: the radii double from point to point, and begin with 0
    axes.plot([share for _, share in points], "o-", color=ROBUST, markersize=4)
    axes.set_xticks(range(len(points)), [f"{radius:.2g}" for radius, _ in points])
    if chance is not None:
        axes.axhline(100 * chance, color=EXTRA, linestyle=":")
    if epsilon is not None:
        marked = max((i for i, (radius, _) in enumerate(points) if radius <= epsilon + 1e-12), default=0)
        axes.axvline(marked, color=EXTRA, linestyle="--")
    axes.set(title="Success against the radius", xlabel="radius", ylim=(-3, 103))
    axes.yaxis.set_major_formatter("{x:.0f} %")


def _loss(axes: "Axes", best: list[float | None], mean: list[float | None], steps: int) -> None:
    for values, dashes in ((best, "-"), (mean, "--")):
        axes.plot([float("nan") if v is None else v for v in values], dashes, color=ROBUST)
    axes.axvline(steps, color=EXTRA, linestyle="--")
    axes.set(title="Loss against the step", xlabel="step")
