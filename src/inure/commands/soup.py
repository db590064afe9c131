"""``inure soup``."""

from pathlib import Path
from typing import Annotated

import typer

from ..settings.errors import UserError


def soup(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="A run whose net has domains (model.adapters), or several runs fine-tuned from one net.",
        ),
    ],
    grid: Annotated[
        str, typer.Option(metavar="LOW:HIGH:STEP", help="Weights of each domain; beyond [0, 1] extrapolates.")
    ] = "-0.4:1.4:0.1",
    suite: Annotated[str, typer.Option(help="Attacks at every soup (inure list suites); clean: none.")] = "pgd20",
    data: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Images to choose by. Default: the run's validation split, never its test."),
    ] = None,
    examples: Annotated[int | None, typer.Option(help="Only the first N images.")] = None,
    threat: Annotated[str | None, typer.Option(metavar="KIND:EPSILON", help="Default: the recipe's.")] = None,
    choose: Annotated[
        str | None, typer.Option(metavar="RULE", help="robust, clean, mean, knee, or clean>=0.8 (the most robust).")
    ] = None,
    few_shot: Annotated[
        int | None,
        typer.Option(metavar="N", help="Let N images of --data, or of each --shift, choose; measured on the others."),
    ] = None,
    shift: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC", help="Also choose for this shifted set; again for more; 'SPEC@*': all corruptions."
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="RUN", help="Another net to measure on the sets of --shift.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results. Default: RUN/soups/SUITE.")] = None,
    batch_size: Annotated[int, typer.Option(help="Pairs of soup and image sent through at once.")] = 256,
    seed: Annotated[int, typer.Option(help="Of the random starts and of the labelled images.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Measure every mix of a net's domains, clean and attacked at that very mix, and choose.

    Writes soup.json, table.md and figure.png (shifts.md and shifts.png with --shift); the last line of stdout is
    their folder. Then inure evaluate RUN --mode clean=0.3,robust=0.7 measures one soup on the test images. Of several
    runs the mixes are of whole nets, uniform and greedy soups are measured too, and weights.safetensors is the mix
    that --choose (else mean) names.
    """
    from ..soups.soup import make_soup

    if examples is not None and examples < 1:
        raise UserError("--examples", examples, "a whole number >= 1")
    if batch_size < 1:
        raise UserError("--batch-size", batch_size, "a whole number >= 1")
    folder, _ = make_soup(
        runs, grid=grid, suite=suite, data=data, examples=examples, threat=threat, rule=choose, few_shot=few_shot,
        shifts=shift or [], against=against, out=out, batch_size=batch_size, seed=seed, device=device, quiet=quiet,
    )  # fmt: skip
    print(folder)
