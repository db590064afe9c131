"""``inure export``."""

from pathlib import Path
from typing import Annotated

import typer

from ..settings.errors import UserError


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run directory.")],
    format: Annotated[
        str, typer.Option(help="timm, safetensors, adapters (what exists per domain alone), or robustbench.")
    ] = "timm",
    mode: Annotated[str | None, typer.Option(metavar="MIX", help="clean, robust, or clean=0.3,robust=0.7.")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder or file. Default: in RUN/export.")] = None,
    info: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="For robustbench: title, authors, url, ...; again for more."),
    ] = None,
) -> None:
    """Write the net, folded for one mode, as a plain net. The last line of stdout is the path.

    timm.create_model("local-dir:FOLDER", pretrained=True) loads what --format timm wrote. --format robustbench
    writes a submission: a model file, weights, model_info and the text of the issue.
    """
    from ..targets.target import parse_mode

    given = {}
    for pair in info or []:
        key, mark, value = pair.partition("=")
        if not mark or not key.strip():
            raise UserError("--info", pair, "KEY=VALUE", '--info title="..."')
        given[key.strip()] = value.strip()
    if format == "robustbench":
        from ..display.console import stderr
        from ..export.robustbench import export_robustbench

        submission = export_robustbench(run, mode=parse_mode(mode), out=out, info=given)
        for line in submission.warnings:
            stderr().print(f"warning: {line}", markup=False, soft_wrap=True)
        print(submission.folder)
        return
    from ..export.export import export as write

    print(write(run, format, mode=parse_mode(mode), out=out, info=given))
