"""What a study found: accuracies of each cell by seed, and paired differences to the cell it is compared with."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..settings.errors import UserError
from ..targets.comparison import compare_outcomes
from .cells import reference_of
from .jobs import QUANTITIES, Job
from .study import Study


@dataclass(frozen=True)
class Difference:
    """A cell minus its reference on the same examples, after training with the same seed."""

    seed: int
    difference: float
    interval95: tuple[float, float]
    """Of the examples: how far other test images might move it. How far other seeds would is another question."""
    p_value: float
    """McNemar's."""


@dataclass(frozen=True)
class CellResult:
    """One combination's results, one value a seed."""

    name: str
    base: str
    overrides: list[str]
    levels: dict[str, Any]
    seeds: list[int]
    clean_accuracy: list[float | None]
    robust_accuracy: list[float | None]
    failures: list[str]
    against: str | None = None
    """The cell that it is compared with."""
    differences: dict[str, list[Difference]] = field(default_factory=dict)
    """``clean`` and ``robust``: one for each seed that both cells have."""
    incomparable: list[str] = field(default_factory=list)
    """Why a seed is missing there."""
    also: dict[str, list[float | None]] = field(default_factory=dict)
    """Robust accuracy under further suites, one value a seed."""

    def values(self, quantity: str) -> list[float]:
        """``clean_accuracy`` or ``robust_accuracy`` of the seeds that have one."""
        return [value for value in getattr(self, quantity) if value is not None]

    def differing(self, quantity: str) -> list[Difference]:
        """The differences in ``clean_accuracy`` or ``robust_accuracy``."""
        return self.differences.get(quantity.partition("_")[0], [])

    def record(self) -> dict[str, Any]:
        """As in study.json."""
        tree = asdict(self)
        for quantity in QUANTITIES:
            short = quantity.partition("_")[0]
            tree[short] = _summary(self.values(quantity))
            if self.against is not None:
                found = self.differing(quantity)
                tree["differences"][short] = {
                    **_summary([one.difference for one in found]), "by_seed": [asdict(one) for one in found],
                }  # fmt: skip
        return tree


def collect(study: Study, jobs: Sequence[Job], records: Mapping[Path, Mapping[str, Any]]) -> list[CellResult]:
    """The results of all cells, as far as there are any.

    Args:
        study: The study.
        jobs: Its runs.
        records: Of those that are done, by folder.
    """
    done = {(job.name, job.seed): (job, records[job.folder]) for job in jobs if job.is_cell and job.folder in records}
    results = []
    for cell in study.cells():
        mine = {seed: done[cell.name, seed] for seed in study.seeds if (cell.name, seed) in done}
        good = {seed: (job, record) for seed, (job, record) in mine.items() if not record.get("failure")}
        failed = [f"seed {seed}: {record['failure']}" for seed, (_, record) in mine.items() if seed not in good]
        clean, robust = ([record[quantity] for _, record in good.values()] for quantity in QUANTITIES)
        also = {suite: [record["also"][suite] for _, record in good.values()] for suite in study.also}
        against = reference_of(study, cell)
        differences, incomparable = {}, []
        if against is not None:
            others = {seed: done[against, seed][0] for seed in good if _is_good(done.get((against, seed)))}
            differences, incomparable = _compare({seed: (good[seed][0], other) for seed, other in others.items()})
        results.append(
            CellResult(
                cell.name, cell.base, cell.overrides, cell.levels, [*good], clean, robust, failed, against, differences,
                incomparable, also,
            )
        )  # fmt: skip
    return results


def compared(cells: Sequence[CellResult]) -> bool:
    """Whether any of them has a reference."""
    return any(cell.against is not None for cell in cells)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None for that of a single value."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def _compare(pairs: Mapping[int, tuple[Job, Job]]) -> tuple[dict[str, list[Difference]], list[str]]:
    found: dict[str, list[Difference]] = {"clean": [], "robust": []}
    incomparable = []
    for seed, (mine, other) in pairs.items():
        try:
            rows = compare_outcomes(other.evaluation, mine.evaluation)
        except UserError as mistake:
            incomparable.append(f"seed {seed}: {mistake}")
            continue
        for row in rows:
            found[row.quantity].append(Difference(seed, row.difference, row.interval95, row.p_value))
    return found, incomparable


def _is_good(entry: tuple[Job, Mapping[str, Any]] | None) -> bool:
    return entry is not None and not entry[1].get("failure")


def _summary(values: Sequence[float]) -> dict[str, float | None]:
    mean, deviation = mean_and_deviation(values) if values else (None, None)
    return {"mean": mean, "sd": deviation}
