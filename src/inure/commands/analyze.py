"""``inure analyze``."""

from pathlib import Path
from typing import Annotated

import typer

from ..settings.errors import UserError


def analyze(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which analysis (inure list analyses).")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A run directory, or path/to/file.py:function.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings of the analysis.")
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="SPEC", help="Images. Default: the run's test images.")] = None,
    examples: Annotated[int | None, typer.Option(help="Only the first N images.")] = None,
    threat: Annotated[str | None, typer.Option(metavar="KIND:EPSILON", help="Default: the recipe's.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights (.pt, .safetensors) to load into the net.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results. Default: RUN/analyses/NAME.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images looked at at once.")] = 128,
    seed: Annotated[int, typer.Option(help="Of all random draws.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Look into a trained net: a table, a figure and the numbers. The last line of stdout is their folder.

    inure analyze transfer RUN "modes=clean robust clean=0.5,robust=0.5" attacks in each mode and judges in all.

    inure analyze ntk RUN compares the tangent kernels of its best and last weights at clean and attacked images.
    """
    from ..analyses.analyze import analyze as run

    if examples is not None and examples < 1:
        raise UserError("--examples", examples, "a whole number >= 1")
    if batch_size < 1:
        raise UserError("--batch-size", batch_size, "a whole number >= 1")
    folder, _ = run(
        name, target, settings or [], data=data, examples=examples, threat=threat, weights=weights, out=out,
        batch_size=batch_size, seed=seed, device=device, quiet=quiet,
    )  # fmt: skip
    print(folder)
