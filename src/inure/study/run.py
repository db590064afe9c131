"""run_study(): everything that a study asks for, into one table and one figure."""

from pathlib import Path
from typing import Any

from ..display.console import stderr, table
from ..machine import engine, files
from ..runs.run import default_out
from ..settings import config, trees
from ..settings.errors import Stop, UserError
from .jobs import jobs_of, refuse_other_measures
from .progress import Progress
from .sharing import do_in_order, entered, in_group, share
from .study import Study
from .table import short_table


def run_study(
    study: Study, out: Path | None = None, *, scale: str | None = None, name: str = "study", quiet: bool = False
) -> Path:
    """Train and evaluate every cell; write study.json, table.md and figure.png into ``out``.

    What is done is not done again, and several processes with the same ``out`` share the runs. A run that stopped
    because a loss was not finite is recorded as a failure; the others go on. A net that stays at chance is a result.

    Args:
        study: What to run.
        out: The folder of all runs; by default a new one under ``runs/``, called after ``name``.
        scale: Which of the study's scales; by default ``smoke``, where it has any.
        name: For the default folder.
        quiet: No progress on stderr.

    Returns:
        The folder.

    Raises:
        UserError: For an override that does not fit any recipe, before anything runs, or another study in ``out``.
        Stop: After a signal, once the state is saved.
    """
    study = study.at(scale)
    folder = out or default_out(name, study.seeds[0])
    jobs = jobs_of(study, folder)
    refuse_other_measures(study, jobs)
    group, writes = in_group(jobs), not engine.is_child()
    if out is None and group:  # each process would choose another
        raise UserError("--out", "nothing", "a folder, where engine.devices is not 1", "--out runs/study")
    progress = Progress(study, folder, jobs, quiet=quiet or not writes, writes=writes)
    if not writes:
        do_in_order(jobs, progress.ended, progress.do)
        return folder
    _claim(folder, study)
    with entered(folder, group=group), progress:
        try:
            if group:
                do_in_order(jobs, progress.ended, progress.do)
            else:
                share(jobs, progress.ended, progress.do, progress.bars.say)
        except Stop as stop:
            raise Stop(folder, stop.signal) from None
    results = progress.write()
    if not quiet:
        stderr().print(table(study.about or "study", *short_table(results)))
    return folder


def _claim(out: Path, study: Study) -> None:
    """Write the study into its folder, or find it there."""
    path, tree = out / "study.yaml", config.dump(study)
    # Looked for twice: another process may write it between the looks
    if not path.exists() and _holds_others(out) and not path.exists():
        raise UserError("--out", str(out), "an absent or empty folder, or this study's own")
    if path.exists():
        _refuse_other(out, config.dump(config.build(Study, trees.read_yaml(path))), tree)
    else:
        files.write_text(path, trees.to_yaml(tree))


def _holds_others(out: Path) -> bool:
    return out.exists() and (not out.is_dir() or any(p for p in out.iterdir() if not p.name.endswith(".tmp")))


def _refuse_other(out: Path, theirs: dict[str, Any], tree: dict[str, Any]) -> None:
    if theirs["scale"] != tree["scale"]:
        raise UserError("--scale", tree["scale"], f"{theirs['scale']}, the scale of {out}", "another --out")
    if changed := trees.differences(theirs, tree):
        raise UserError("--out", f"{out} (differs in {', '.join(changed)})", "this study's folder or a new one")
