"""analyze(): what ``inure analyze`` does: one analysis of one net, with its table, figure and numbers in files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..display.console import Bars, markdown, stderr, table
from ..evaluation import weights_hash
from ..evaluation.results import set_aside
from ..machine import files
from ..runs.load import load
from ..runs.run import Run
from ..settings import config, trees
from ..settings.errors import UserError, unknown_name
from ..targets.target import device_of, find_images, find_threat
from ..threat import describe_threat
from . import ANALYSES, Finding, Subject

_FILES = ("table.md", "figure.png", "analysis.json")


def analyze(
    name: str,
    target: str,
    settings: Sequence[str] = (),
    *,
    data: str | None = None,
    examples: int | None = None,
    threat: str | None = None,
    weights: Path | None = None,
    out: Path | None = None,
    batch_size: int = 128,
    seed: int = 0,
    device: str = "auto",
    quiet: bool = False,
) -> tuple[Path, Finding]:
    """Run one analysis; see ``inure analyze --help`` for the arguments.

    Results of an earlier one in the same folder move to ``previous``.

    Returns:
        The folder of the results, and what was found.

    Raises:
        UserError: If there is no such analysis, or a setting does not fit.
    """
    kinds: dict[str, Any] = {analysis.model_fields["kind"].default: analysis for analysis in ANALYSES}
    if name not in kinds:
        raise unknown_name("NAME", name, kinds)
    analysis = config.build(kinds[name], trees.apply_overrides({}, trees.parse_overrides(settings)))
    run = None if ".py:" in target else Run.open(Path(target), "TARGET")
    classifier = load(target, weights)
    geometry = find_threat(run, threat)
    images = find_images(run, classifier, data).head(examples)
    folder = out or (run.path / "analyses" / name if run else None)
    if folder is None:
        raise UserError("--out", "nothing", "a folder for the results of file.py:function", "--out results")
    with Bars(quiet=quiet) as bars:
        net = classifier.read_as(images.readout)
        own = run if weights is None else None
        subject = Subject(net, images, geometry, seed, batch_size, device_of(device), bars, own)
        finding: Finding = analysis.run(subject)
    protocol = {
        "analysis": config.dump(analysis), "threat": describe_threat(geometry), "seed": seed, "examples": len(images),
        "data": images.name, "data_hash": images.hash, "weights_hash": weights_hash(classifier),
    }  # fmt: skip
    previous = set_aside(folder, _FILES)
    table_file, figure_file, numbers_file = (folder / name for name in _FILES)
    files.write_text(table_file, markdown(finding.columns, finding.rows))
    files.write_bytes(figure_file, finding.figure)
    files.write_json(numbers_file, {**finding.numbers, "protocol": protocol})
    if not quiet:
        if previous is not None:
            stderr().print(f"the results that were in {folder} are now in {previous}", markup=False)
        stderr().print(table(finding.title, finding.columns, finding.rows))
    return folder, finding
