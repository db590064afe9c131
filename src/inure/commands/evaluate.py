"""``inure evaluate``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError


def evaluate(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A run directory, or path/to/file.py:function.")],
    suite: Annotated[str | None, typer.Option(help="Which attacks (inure list suites). Default: the recipe's.")] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="digits, parquet, a folder, hub:OWNER/NAME; #test picks a split."),
    ] = None,
    examples: Annotated[int | None, typer.Option(help="Only the first N rows.")] = None,
    threat: Annotated[
        str | None,
        typer.Option(metavar="KIND:EPSILON", help="linf:8/255, l2:0.5, l1:12. Default: the recipe's."),
    ] = None,
    mode: Annotated[str | None, typer.Option(metavar="MIX", help="clean, robust, or clean=0.3,robust=0.7.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights (.pt, .safetensors) to load into the net.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results. Default: RUN/evaluations/SUITE.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted evaluation.")] = False,
    batch_size: Annotated[int, typer.Option(help="Images attacked at once; changes no verdict.")] = 128,
    seed: Annotated[int, typer.Option(help="Of the random starts.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    devices: Annotated[int, typer.Option(help="Processes to share the examples; changes no verdict.")] = 1,
    fail_under: Annotated[
        float | None, typer.Option(help="Exit code 3 if robust accuracy (a fraction) is lower.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> int:
    """Measure clean and robust accuracy. The last line of stdout is the folder of the results.

    Robust accuracy is the pointwise worst case over the attacks of the suite, over all examples. A suite other
    than the full cascade gives an upper bound.
    """
    from ..target import evaluate_target

    if fail_under is not None and not 0 <= fail_under <= 1:
        raise UserError("--fail-under", fail_under, "a fraction in [0, 1]", "0.4")
    if examples is not None and examples < 1:
        raise UserError("--examples", examples, "a whole number >= 1")
    folder, summary = evaluate_target(
        target, suite=suite, data=data, examples=examples, threat=threat, mode=mode, weights=weights, out=out,
        resume=resume, batch_size=batch_size, seed=seed, device=device, devices=devices, quiet=quiet,
    )  # fmt: skip
    from ..engine import is_child

    if is_child():
        return 0
    print(folder)
    accuracy = summary["robust_accuracy"] if summary["robust_accuracy"] is not None else summary["clean_accuracy"]
    if fail_under is None or accuracy >= fail_under:
        return 0
    print(f"inure: --fail-under: accuracy {accuracy:.4f} is under {fail_under}", file=sys.stderr)
    return 3
