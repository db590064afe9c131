"""The runs of a study, in the order in which they are begun, and the record that each leaves when it is done."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..machine import files
from ..recipe.recipe import Recipe, load_recipe
from ..runs.run import Run
from ..settings.errors import NonFinite, UserError
from .cells import cells_of, fill_places, places_in, reference_of, slug
from .study import Study

BEFORE = "before"
"""The folder of the runs that others start from."""
QUANTITIES = ("clean_accuracy", "robust_accuracy")


@dataclass(frozen=True)
class Job:
    """One run: a cell or a run before, with one seed."""

    name: str
    seed: int
    recipe: Recipe
    folder: Path
    """The run directory. Beside it lie ``seedN.json``, once it is done, and ``seedN.lock``, while it is in work."""
    needs: tuple["Job", ...] = ()
    """Those before, which it starts from."""
    suite: str | None = None
    """What it is evaluated with; None is the recipe's."""
    also: tuple[str, ...] = ()
    """Further suites."""
    also_examples: int | None = None
    """Test images for those."""
    is_cell: bool = True
    """Whether it is evaluated at all."""

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.name}, seed {self.seed}"

    @property
    def lock(self) -> Path:
        """The file that the process at work on it holds."""
        return self.folder.with_suffix(".lock")

    @property
    def evaluation(self) -> Path:
        """The folder with the outcomes of every example."""
        suite = self.suite or self.recipe.evaluation.suite
        return self.folder / "evaluations" / suite.replace("-", "_")

    def result(self) -> dict[str, Any] | None:
        """What its record says; None as long as it is not done. A run without its folder is not."""
        try:
            record = json.loads(self.folder.with_suffix(".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if record.get("failure") or Run(self.folder).info() else None

    def finish(self, record: dict[str, Any]) -> None:
        """Write the record: the job is done."""
        files.write_json(self.folder.with_suffix(".json"), record)


def jobs_of(study: Study, out: Path) -> list[Job]:
    """All runs: those before, then cell by cell, seed by seed.

    Raises:
        UserError: For an override that does not fit its recipe.
    """
    before: dict[tuple[str, int], Job] = {}
    for name, part in study.before.items():
        assert part.base is not None
        for seed in study.seeds:
            folder = out / BEFORE / slug(name) / f"seed{seed}"
            before[name, seed] = _job(f"before: {name}", part.base, part.set, seed, folder, before)
    cells = [
        _job(cell.name, cell.base, cell.overrides, seed, run_folder(out, cell.name, seed), before, study=study)
        for cell in study.cells()
        for seed in study.seeds
    ]
    return [*before.values(), *cells]


def refuse_other_measures(study: Study, jobs: Sequence[Job]) -> None:
    """A difference between two cells means nothing if their robustness is measured in two ways.

    Raises:
        UserError: If a cell and its reference are evaluated with different suites or threat models.
    """
    measures = {job.name: (job.evaluation.name, job.recipe.evaluation.threat) for job in jobs if job.is_cell}
    for cell in cells_of(study):
        against = reference_of(study, cell)
        if against is not None and measures[cell.name] != measures[against]:
            given = f"{cell.name} against {against}, evaluated in another way"
            raise UserError("against", given, "cells of one suite and one evaluation.threat", "against: {}")


def run_folder(out: Path, cell: str, seed: int) -> Path:
    """The run directory of a cell."""
    return out / slug(cell) / f"seed{seed}"


def run_job(job: Job, failures: Mapping[Path, str], *, quiet: bool) -> dict[str, Any]:
    """Train and evaluate; what is done of it already is not repeated.

    Args:
        job: What to run.
        failures: Of those runs that failed, by folder.
        quiet: No progress on stderr.

    Returns:
        The record: accuracies, or a failure where a loss was not finite.

    Raises:
        UserError: If data or settings do not fit.
        Stop: After a signal, once the state is saved.
    """
    from ..targets.evaluate import evaluate_target
    from ..targets.request import Request
    from ..training.train import train

    for need in job.needs:
        if need.folder in failures:
            return {"failure": f"{need.name}: {failures[need.folder]}"}
    try:
        run = Run(train(job.recipe, job.folder, name=job.name, resume=True, quiet=quiet))
    except NonFinite as error:
        return {"failure": f"not finite at {error}"}
    if not job.is_cell:
        return {"failure": None}
    devices = 1 if job.recipe.engine.devices == "auto" else job.recipe.engine.devices
    ask = partial(Request, str(run.path), devices=devices, resume=True, quiet=True)
    summary = evaluate_target(ask(suite=job.suite))[1]
    others = {suite: evaluate_target(ask(suite=suite, examples=job.also_examples))[1] for suite in job.also}
    also = {suite: found["robust_accuracy"] for suite, found in others.items()}
    return {"failure": None, **{quantity: summary[quantity] for quantity in QUANTITIES}, "also": also}


def _job(
    name: str, base: str, overrides: list[str], seed: int, folder: Path, before: Mapping[tuple[str, int], Job],
    *, study: Study | None = None,
) -> Job:  # fmt: skip
    needs = tuple(before[need, seed] for need in places_in(overrides))
    # Whole paths: processes that share a study may have been started in different folders
    folders = {need: job.folder.resolve() for (need, of), job in before.items() if of == seed}
    filled = [fill_places(override, folders) for override in overrides]
    recipe = load_recipe(base, [*filled, f"seed={seed}"])
    if study is None:
        return Job(name, seed, recipe, folder, needs, is_cell=False)
    return Job(name, seed, recipe, folder, needs, study.suite, tuple(study.also), study.also_examples)
