"""``inure export``."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run directory.")],
    format: Annotated[
        str, typer.Option(help="timm, safetensors, or adapters (what exists per domain alone).")
    ] = "timm",
    mode: Annotated[str | None, typer.Option(metavar="MIX", help="clean, robust, or clean=0.3,robust=0.7.")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder or file. Default: in RUN/export.")] = None,
) -> None:
    """Write the net, folded for one mode, as a plain net. The last line of stdout is the path.

    timm.create_model("local-dir:FOLDER", pretrained=True) loads what --format timm wrote.
    """
    from ..export import export as write
    from ..target import parse_mode

    print(write(run, format, mode=parse_mode(mode), out=out))
