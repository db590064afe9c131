"""``inure study``."""

from pathlib import Path
from typing import Annotated

import typer


def study(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A shipped name (inure list studies) or a YAML file.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the runs and of the table. Default: a new one in runs/.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Run a grid of recipes and seeds into one table and one figure; what is done already is not repeated.

    A study is YAML: base (a recipe), set (overrides), grid (key: [values]), seeds, suite.
    """
    from ..engine import is_child
    from ..study import load_study, run_study

    path = run_study(load_study(study), out, name=f"study_{Path(study).stem}", quiet=quiet)
    if not is_child():
        print(path)
