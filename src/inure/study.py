"""Grids of recipes and seeds: resumable, what is done is skipped, one table and one figure at the end."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from . import config, engine, files
from .config import Settings, Whole
from .console import markdown, percent, stderr, table
from .drawing import png
from .errors import NonFinite, Stop, UserError, unknown_name
from .evaluation.suites import SUITES
from .recipe import Recipe, load_recipe
from .run import Run, default_out
from .shipped import find_shipped

QUANTITIES = ("clean_accuracy", "robust_accuracy")


class Study(Settings):
    """Every combination of ``base`` x ``grid`` x ``seeds``, trained and evaluated."""

    about: str = ""
    base: str | Annotated[list[str], Field(min_length=1)]
    """A recipe, or several to compare."""
    set: list[str] = []
    """Overrides for all runs."""
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    """Dotted key: the values to cross."""
    seeds: Annotated[list[Whole], Field(min_length=1)] = [0]
    suite: str | None = None
    """None: the recipes' own evaluation.suite."""

    @model_validator(mode="after")
    def _refuse_impossible(self) -> "Study":
        if len({*self.seeds}) != len(self.seeds):
            raise UserError("seeds", self.seeds, "seeds that differ")
        if self.suite is not None and self.suite not in SUITES:
            raise unknown_name("suite", self.suite, SUITES)
        return self

    def cells(self) -> Iterator[tuple[str, str, list[str]]]:
        """(name, base recipe, overrides) of every combination, seeds apart."""
        bases = [self.base] if isinstance(self.base, str) else self.base
        for base, *values in itertools.product(bases, *self.grid.values()):
            chosen = [f"{key}={json.dumps(value)}" for key, value in zip(self.grid, values, strict=True)]
            parts = ([base] if len(bases) > 1 or not chosen else []) + [c.replace('"', "") for c in chosen]
            yield ", ".join(parts), base, [*self.set, *chosen]


@dataclass(frozen=True)
class Cell:
    """One combination's results, one value a seed."""

    name: str
    seeds: list[int]
    clean_accuracy: list[float]
    robust_accuracy: list[float]
    failures: list[str]


def load_study(name: str) -> Study:
    """A shipped study or a YAML file."""
    return config.build(Study, config.read_yaml(find_shipped("studies", name, "STUDY")))


def run_study(study: Study, out: Path | None = None, *, name: str = "study", quiet: bool = False) -> Path:
    """Train and evaluate every cell; write study.json, table.md and figure.png into ``out``.

    A run that stopped because a loss was not finite is recorded as a failure; the others go on.

    Args:
        study: What to run.
        out: The folder of all runs; by default a new one under ``runs/``, called after ``name``.
        name: For the default folder.
        quiet: No progress on stderr.

    Returns:
        The folder.

    Raises:
        UserError: For an override that does not fit any recipe, before anything runs, or another study in ``out``.
    """
    cells = list(study.cells())
    recipes = {
        (name, seed): load_recipe(base, [*sets, f"seed={seed}"]) for name, base, sets in cells for seed in study.seeds
    }
    out = out or _default_out(name, study, [*recipes.values()])
    writes = not engine.is_child()
    quiet = quiet or not writes
    if writes:
        _claim(out, study)
    results = []
    for number, (name, _, _) in enumerate(cells, start=1):
        found: dict[str, list[Any]] = {"seeds": [], "failures": [], **{q: [] for q in QUANTITIES}}
        for seed in study.seeds:
            if not quiet:
                stderr().print(f"[{number}/{len(cells)}] {name} seed {seed}", markup=False)
            folder = out / _slug(name) / f"seed{seed}"
            try:
                summary = _one(recipes[name, seed], folder, study.suite, name, quiet)
            except Stop as stop:
                raise Stop(out, stop.signal) from None
            except NonFinite as error:
                found["failures"].append(f"seed {seed}: not finite at {error}")
                continue
            found["seeds"].append(seed)
            for quantity in QUANTITIES:
                found[quantity].append(summary[quantity])
        results.append(Cell(name=name, **found))
        if writes:
            _write(out, study, results)
    if not quiet:
        stderr().print(table(study.about or "study", _HEADER, [_row(cell) for cell in results]))
    return out


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for a single value)."""
    mean = sum(values) / len(values)
    spread = sum((v - mean) ** 2 for v in values) / (len(values) - 1) if len(values) > 1 else 0.0
    return mean, math.sqrt(spread)


def _one(recipe: Recipe, folder: Path, suite: str | None, name: str, quiet: bool) -> dict[str, Any]:
    from .target import evaluate_target
    from .train import train

    run = Run(train(recipe, folder, name=name, resume=True, quiet=quiet))
    devices = 1 if recipe.engine.devices == "auto" else recipe.engine.devices
    return evaluate_target(str(run.path), suite=suite, devices=devices, resume=True, quiet=True)[1]


def _default_out(name: str, study: Study, recipes: list[Recipe]) -> Path:
    if any(recipe.engine.devices != 1 for recipe in recipes):  # each process would choose another
        raise UserError("--out", "nothing", "a folder, where engine.devices is not 1", "--out runs/study")
    return default_out(name, study.seeds[0])


def _claim(out: Path, study: Study) -> None:
    path, tree = out / "study.yaml", config.dump(study)
    if path.exists():
        if changed := config.differences(config.read_yaml(path), tree):
            raise UserError("--out", f"{out} (differs in {', '.join(changed)})", "this study's folder or a new one")
    elif out.exists() and (not out.is_dir() or any(p for p in out.iterdir() if not p.name.endswith(".tmp"))):
        raise UserError("--out", str(out), "an absent or empty folder, or this study's own")
    files.write_text(path, config.to_yaml(tree))


def _write(out: Path, study: Study, cells: list[Cell]) -> None:
    files.write_json(out / "study.json", {"about": study.about, "cells": [asdict(cell) for cell in cells]})
    files.write_text(out / "table.md", markdown(_HEADER, [_row(cell) for cell in cells]))
    files.write_bytes(out / "figure.png", _figure(cells))


_HEADER = ["run", "clean (mean, sd)", "robust (mean, sd)", "robust by seed", "seeds", "failed"]


def _row(cell: Cell) -> list[Any]:
    by_seed = " ".join(percent(value) for value in cell.robust_accuracy)
    return [
        cell.name,
        _spread(cell.clean_accuracy),
        _spread(cell.robust_accuracy),
        by_seed,
        len(cell.seeds),
        len(cell.failures),
    ]


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean, deviation = mean_and_deviation(known)
    return f"{100 * mean:.1f} ± {100 * deviation:.1f} %" if len(known) > 1 else percent(mean)


def _figure(cells: list[Cell]) -> bytes:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(7, 0.9 + 0.45 * len(cells)), layout="constrained")
    axes = figure.subplots()
    legend = []
    for offset, (quantity, colour) in enumerate(zip(QUANTITIES, ("#4477aa", "#cc6677"), strict=True)):
        legend.append(Patch(color=colour, alpha=0.45, label=quantity.split("_")[0]))
        for position, cell in enumerate(cells):
            values = [100 * v for v in getattr(cell, quantity) if v is not None]
            height = position + 0.24 * offset - 0.12
            if values:
                axes.barh(height, sum(values) / len(values), height=0.22, color=colour, alpha=0.45)
                axes.plot(values, [height] * len(values), "o", color=colour, markersize=4)
    axes.set_yticks(range(len(cells)), [cell.name for cell in cells])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy, % (bars: mean, dots: seeds)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(handles=legend, loc="outside upper right", ncols=2, frameon=False)
    return png(figure)


def _slug(name: str) -> str:
    slug = "".join(c if c.isalnum() or c in "=.-" else "_" for c in name).strip("_")
    # Long names may differ only in what is cut off
    return slug if len(slug) <= 120 else f"{slug[:110]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
