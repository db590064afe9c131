"""``inure train``."""

import time
from pathlib import Path
from typing import Annotated

import typer

from ..settings.errors import UserError


def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A shipped name (inure list recipes) or a YAML file.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE...", help="Settings by dotted key: method.attack.steps=10 epochs=5."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run directory; absent or empty. Default: a new one in runs/.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out exactly.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe, passes per step and expected time.")
    ] = False,
    max_minutes: Annotated[float | None, typer.Option(help="Save a checkpoint and leave after so long.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Train a classifier. The last line of stdout is the run directory.

    Examples: inure train digits/pgd_at     inure train cifar10/trades_resnet18 data.source=DIR/cifar10-*.parquet
    epochs=30 method.attack.threat.epsilon=8/255     inure train digits/mart seeds=0,1,2
    """
    begin = time.monotonic()
    from ..recipe.recipe import load_recipe

    if max_minutes is not None and max_minutes <= 0:
        raise UserError("--max-minutes", max_minutes, "a number of minutes > 0")
    seeds, rest = seeds_of(overrides or [])
    if seeds is not None and max_minutes is not None:
        raise UserError("--max-minutes", max_minutes, "no limit where several seeds are trained", "a seed at a time")
    if resume and out is None:
        raise UserError("--resume", "no --out", "the folder of the run to continue", "--out RUN --resume")
    if seeds is not None and not dry_run:
        _train_seeds(recipe, rest, seeds, out, quiet)
        return
    loaded = load_recipe(recipe, rest)
    if dry_run:
        from ..training.forecast import forecast

        forecast(loaded)
        return
    from ..training.train import train as run

    left = None if max_minutes is None else max_minutes - (time.monotonic() - begin) / 60
    path = run(loaded, out, name=recipe, resume=resume, max_minutes=left, quiet=quiet)
    from ..machine.engine import is_child

    if not is_child():
        print(path)


def _train_seeds(recipe: str, overrides: list[str], seeds: list[int], out: Path | None, quiet: bool) -> None:
    from ..machine.engine import is_child
    from ..study import Study, run_study

    path = run_study(Study(base=recipe, set=overrides, seeds=seeds), out, name=recipe, quiet=quiet)
    if not is_child():
        print(path)


def seeds_of(overrides: list[str]) -> tuple[list[int] | None, list[str]]:
    """``seeds=0,1,2`` among the overrides, and the others."""
    given = [o for o in overrides if o.startswith("seeds=")]
    if not given:
        return None, overrides
    text = given[-1].removeprefix("seeds=").strip("[]")
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError("seeds", text, "whole numbers with commas between them", "seeds=0,1,2") from None
    return seeds, [o for o in overrides if o not in given]
