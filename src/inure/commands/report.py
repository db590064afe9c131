"""``inure report``."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run directories; several are shown side by side.")
    ],
    out: Annotated[Path | None, typer.Option(help="The HTML file. Default: report.html in the first run.")] = None,
) -> None:
    """Write one self-contained report.html: settings, curves, accuracies, pictures. Its path is the last line."""
    from ..reports import write_report

    print(write_report(runs, out))
