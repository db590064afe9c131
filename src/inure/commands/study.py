"""``inure study``."""

from pathlib import Path
from typing import Annotated

import typer


def study(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A shipped name (inure list studies) or a YAML file.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Settings for all cells, seeds=0,1,2 included; before.KEY=VALUE for the runs that cells start from.",
        ),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(help="smoke (CPU, minutes), gpu or paper, where the study has scales.", show_default="smoke"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the runs and of the table. Default: a new one in runs/.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Run a grid of recipes and seeds into one table and one figure; what is done already is not repeated.

    A study is YAML: base (a recipe), set (overrides), axes (name: level: overrides), grid (key: [values]), seeds,
    suite, before (runs to start from), against (what to compare with), scales. Called several times with one --out,
    the processes share the runs: CUDA_VISIBLE_DEVICES=0 inure study NAME --out DIR & CUDA_VISIBLE_DEVICES=1 ...
    """
    from ..machine.engine import is_child
    from ..study import load_study, run_study
    from .train import seeds_of

    seeds, overrides = seeds_of(settings or [])
    chosen = load_study(study).at(scale).with_overrides(overrides, seeds)
    name = "_".join(["study", Path(study).stem, *([chosen.scale] if chosen.scale else [])])
    path = run_study(chosen, out, name=name, quiet=quiet)
    if not is_child():
        print(path)
