"""The report: one self-contained HTML page on one run, or on several side by side."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ..machine.files import write_text
from ..settings.errors import UserError
from .audits import audits
from .dials import dials
from .figures import CLEAN, EXTRA, ROBUST, RUN_COLOURS, training_curves
from .notices import notices
from .predictions import prediction_figures
from .run_files import RunFiles, dig, read_runs
from .scores import find_evaluation, headline_key
from .sections import accuracy_groups, headlines, run_section
from .settings_text import differing_settings, title_of
from .shifted import shifted_parts

_FOLDER = Path(__file__).parent


def write_report(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Writes the report on one run, or the comparison of several, as one HTML file that needs no network.

    The run directories are only read. What they do not hold yet (evaluations, examples, an end of training)
    is named on the page.

    Args:
        runs: Run directories, or folders that ``inure evaluate --out`` wrote.
        out: The file to write; ``report.html`` in the first run directory if left out.

    Returns:
        The path of the page.

    Raises:
        UserError: If there is no run, or a path is no run directory.
    """
    if not runs:
        raise UserError("RUN", "no run", "one or more run directories")
    files = read_runs([Path(run) for run in runs])
    out = files[0].path / "report.html" if out is None else Path(out)
    if out.is_dir():
        raise UserError("--out", str(out), "a file to write", str(out / "report.html"))
    write_text(out, render(files))
    return out


def render(runs: Sequence[RunFiles]) -> str:
    """The page as text."""
    return _template().render(_context(runs, headline_key(runs)))


@cache
def _template() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html.j2")


def _context(runs: Sequence[RunFiles], key: tuple[str, str] | None) -> dict[str, Any]:
    from ..evaluation.suites import is_full

    colours = [RUN_COLOURS[i % len(RUN_COLOURS)] for i in range(len(runs))]
    return {
        "title": title_of(runs),
        "headlines": headlines(runs, key),
        "bound": key is not None and not is_full(key[0]),
        "notices": notices(runs, key),
        "groups": accuracy_groups(runs),
        "audits": audits(runs),
        "shifted": shifted_parts(runs),
        "dials": dials(runs),
        "curves": training_curves(runs),
        "predictions": prediction_figures(runs),
        "best_known": any(run.run.get("best") for run in runs),
        "validated": [
            kind
            for kind in ("clean", "robust", "fgsm")
            if any(dig(record, f"validation.{kind}_accuracy") is not None for run in runs for record in run.epochs)
        ],
        "differing": differing_settings(runs),
        "runs": [run_section(run, find_evaluation(run, key), f"run{i}") for i, run in enumerate(runs)],
        "colours": colours,
        "clean_colour": CLEAN,
        "robust_colour": ROBUST,
        "extra_colour": EXTRA,
    }
