"""``inure report``."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run directories, shown side by side; a study's folder: all its runs."),
    ],
    out: Annotated[Path | None, typer.Option(help="The HTML file. Default: report.html in the first run.")] = None,
) -> None:
    """Write one self-contained report.html: settings, curves, accuracies, pictures. Its path is the last line."""
    from ..reports import write_report

    print(write_report([run for path in runs for run in _runs_in(path)], out))


def _runs_in(path: Path) -> list[Path]:
    """The run itself, or the runs of a study's folder."""
    if not (path / "study.yaml").is_file():
        return [path]
    return sorted(found.parent for found in path.glob("*/seed*/recipe.yaml"))
