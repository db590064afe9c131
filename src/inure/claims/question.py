"""A claim as a question to a shipped study: differences of robust accuracy between cells, paired, seed by seed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..runs.run import Run
from ..settings.errors import UserError
from ..study import Study, load_study
from ..study.jobs import Job, jobs_of
from ..study.run import run_study
from ..targets.comparison import compare_outcomes
from .claim import UNDECIDED, Answer, Interval, Verdict, above, below, every, within
from .figures import dots
from .lab import Lab, summary_of

Jobs = dict[tuple[str, int], Job]
"""Of all cells, by name and seed."""


@dataclass(frozen=True)
class Condition:
    """Robust accuracy of cells with the levels ``of`` minus that of the cells with ``than``, else equal.

    Both name the same axes.
    """

    of: dict[str, str]
    than: dict[str, str]
    must: Literal["exceed", "stay below", "match within"] = "exceed"
    margin: float = 0.0

    def answer(self, gaps: Sequence[Interval]) -> Answer:
        """By the intervals of every seed."""
        if self.must == "match within":
            return within(gaps, self.margin)
        return above(gaps, self.margin) if self.must == "exceed" else below(gaps, self.margin)

    def text(self) -> str:
        """For people."""
        differing = [axis for axis, level in self.of.items() if self.than[axis] != level]
        names = [" + ".join(levels[axis] for axis in differing) for levels in (self.of, self.than)]
        margin = f"{100 * self.margin:.0f}" if self.must == "match within" else f"{100 * self.margin:+.0f}"
        return f"{names[0]} minus {names[1]}: {self.must} {margin}"

    def must_learn(self, mine: str, other: str) -> tuple[str, ...]:
        """Of the two cells those that have to be above chance, or else nothing is decided."""
        return {"exceed": (mine,), "stay below": (other,), "match within": (mine, other)}[self.must]


@dataclass(frozen=True)
class Question:
    """A shipped study, the part of it that is run, and what has to hold in it."""

    study: str
    conditions: tuple[Condition, ...]
    only: dict[str, tuple[str, ...]]
    """Axis: the levels, or what they begin with; others are left out."""

    def __call__(self, lab: Lab) -> Verdict:
        """Run the study at the lab's scale with its seeds, then compare."""
        study, jobs = run_part(lab, self.study, self.only)
        rows, answers, reasons, accuracies = [], [], [], accuracies_of(jobs)
        for condition in self.conditions:
            for label, mine, other in pairs_of(study, condition):
                gaps = _gaps(jobs, mine, other, lab.seeds)
                needed = condition.must_learn(mine, other)
                idle = [cell for cell in needed if not all(_learned(jobs[cell, seed]) for seed in lab.seeds)]
                answers.append(UNDECIDED if idle else condition.answer(gaps))
                name = f"{label}: {condition.text()}" if label else condition.text()
                rows.append([name, "; ".join(gap.text() for gap in gaps), answers[-1]])
                reasons.append(f"{name}: {answers[-1]}" + (f" ({' and '.join(idle)} is at chance)" if idle else ""))
        return Verdict(
            every(answers),
            f"study {self.study} at scale {lab.scale}; "
            "differences of robust accuracy in percentage points, paired over the test images: the 95 % interval of "
            "every seed must lie beyond the margin, for a match within it (a net whose loss was not finite counts as "
            "wrong everywhere; nothing is decided where the better net, for a match one of them, is at chance); "
            + "; ".join(c.text() for c in self.conditions),
            "; ".join(reasons),
            ["comparison", "points by seed", "answer"],
            rows,
            dots(accuracies),
            {"study": self.study, "accuracies": accuracies},
        )


def run_part(lab: Lab, name: str, only: Mapping[str, tuple[str, ...]]) -> tuple[Study, Jobs]:
    """Train and evaluate a part of a shipped study at the lab's scale, with its seeds and settings.

    Args:
        lab: Where, and what besides the study.
        name: The study.
        only: Axis: the levels, or what they begin with. Claims that share a study share its runs if this is equal.

    Raises:
        UserError: For ``--examples``.
    """
    if lab.examples is not None:
        raise UserError("--examples", lab.examples, "nothing: a study evaluates on all test images", "data.test=SPEC")
    study = part_of(load_study(name).at(lab.scale), only).with_overrides(lab.overrides, [*lab.seeds])
    folder = run_study(study, lab.folder / "studies" / name, quiet=lab.quiet)
    return study, {(job.name, job.seed): job for job in jobs_of(study, folder) if job.is_cell}


def part_of(study: Study, only: Mapping[str, tuple[str, ...]]) -> Study:
    """``study`` with the levels in ``only``, or that begin so."""
    axes = {
        axis: {n: part for n, part in levels.items() if n.startswith(only.get(axis, ""))}
        for axis, levels in study.axes.items()
    }
    return study.model_copy(update={"axes": axes})


def pairs_of(study: Study, condition: Condition) -> Iterator[tuple[str, str, str]]:
    """For each pair of a condition: what else the two cells have, and their names."""
    cells = list(study.cells())
    for cell in cells:
        if all(cell.levels[axis] == level for axis, level in condition.of.items()):
            wanted = {**cell.levels, **condition.than}
            other = next(c for c in cells if c.levels == wanted)
            free = [levels for axis, levels in cell.levels.items() if axis not in condition.of]
            yield ", ".join(free) if len(study.axes) > len(condition.of) else "", cell.name, other.name


def _gaps(jobs: Jobs, mine: str, other: str, seeds: Sequence[int]) -> list[Interval]:
    """The differences by seed. A net whose loss was not finite any more is wrong on every image."""
    gaps = []
    for seed in seeds:
        ours, theirs = jobs[mine, seed], jobs[other, seed]
        if _failed(ours) and _failed(theirs):
            gaps.append(Interval(0.0, 0.0, 0.0))
        elif _failed(ours):
            share, low, high = _alone(theirs)
            gaps.append(Interval(-share, -high, -low))
        elif _failed(theirs):
            gaps.append(Interval(*_alone(ours)))
        else:
            row = next(r for r in compare_outcomes(theirs.evaluation, ours.evaluation) if r.quantity == "robust")
            gaps.append(Interval(row.difference, *row.interval95))
    return gaps


def _learned(job: Job) -> bool:
    """Whether the net knows more of clean images than chance, beyond the 95 % interval."""
    if _failed(job):
        return False
    return summary_of(job.evaluation)["interval95"]["clean"][0] > 1 / Run(job.folder).info()["num_classes"]


def _failed(job: Job) -> bool:
    return (job.result() or {}).get("failure") is not None


def _alone(job: Job) -> tuple[float, float, float]:
    """Robust accuracy and its interval."""
    summary = summary_of(job.evaluation)
    return summary["robust_accuracy"], *summary["interval95"]["robust"]


def accuracies_of(jobs: Jobs) -> dict[str, dict[str, list[float]]]:
    """Clean and robust accuracy of every cell, one value a seed; 0 where a loss was not finite."""
    found: dict[str, dict[str, list[float]]] = {}
    for (name, _), job in jobs.items():
        record: dict[str, Any] = job.result() or {}
        for quantity in ("clean", "robust"):
            values = found.setdefault(name, {}).setdefault(quantity, [])
            values.append(0.0 if record.get("failure") else record[f"{quantity}_accuracy"])
    return found
