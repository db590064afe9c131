"""``inure reproduce``."""

from pathlib import Path
from typing import Annotated

import typer

from ..settings.errors import UserError


def reproduce(
    claim: Annotated[
        str | None, typer.Argument(metavar="[CLAIM]", help="PAPER/CLAIM, or PAPER for all of its claims.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings for all nets, as for inure train.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the claims.")] = False,
    scale: Annotated[str, typer.Option(help="smoke (digits, CPU), gpu (CIFAR-10) or paper (ImageNet).")] = "smoke",
    seeds: Annotated[int, typer.Option(help="Each net is trained so many times.")] = 2,
    examples: Annotated[int | None, typer.Option(help="Only the first N test images.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of nets and results; what is there is not done again.")] = Path(
        "runs/claims"
    ),
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Test a paper's claim: train its nets, apply a criterion stated beforehand, draw the figure, give the verdict.

    reproduced, not reproduced, or not decidable at this scale; verdict.json, table.md and figure.png are in the folder
    whose path is the last line of stdout.
    """
    from ..claims import CLAIMS

    if list_ or claim is None:
        for name, item in CLAIMS.items():
            print(f"{name}\t{item.statement}")
        return
    from ..claims.reproduce import reproduce as run

    if seeds < 1:
        raise UserError("--seeds", seeds, "a whole number >= 1")
    if examples is not None and examples < 1:
        raise UserError("--examples", examples, "a whole number >= 1")
    print(run(claim, settings or [], scale=scale, seeds=seeds, examples=examples, out=out, quiet=quiet))
