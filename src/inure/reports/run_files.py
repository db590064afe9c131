"""Reads the files of a run directory, as far as they exist.

A run may be half done, interrupted in the middle of a line, or copied without its weights. What cannot be
read is collected in ``problems``, in words for the page; nothing here fails because a file is missing.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..settings.errors import UserError

if TYPE_CHECKING:
    import numpy

_MARKS = ("run.json", "recipe.yaml", "metrics.jsonl", "summary.json", "evaluations")
_OUTCOME_COLUMNS = ("index", "label", "clean_prediction", "attack", "adversarial_prediction", "robust")
_EXAMPLE_TENSORS = ("x", "x_adv", "label", "clean_prediction", "adversarial_prediction")


@dataclass(frozen=True)
class EvaluationFiles:
    """One ``evaluations/<suite>/`` folder."""

    summary: dict[str, Any]
    outcomes: "dict[str, numpy.ndarray] | None"
    """The columns of ``outcomes.parquet``."""
    examples: "dict[str, numpy.ndarray] | None"
    """Images ``x`` and ``x_adv`` (n, C, H, W) in [0, 1]; (n,) ``label`` and predictions."""
    audit: dict[str, Any] = field(default_factory=dict)
    """``audit.json``; empty if there was none."""


@dataclass(frozen=True)
class RunFiles:
    """All that a report wants to know of one run."""

    path: Path
    name: str
    run: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    recipe_text: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    """Records of the epochs, in order; of an epoch that was repeated after a resume, the later record."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """The other records of ``metrics.jsonl``: noted (an epoch that was not validated), warning, resume, stop."""
    evaluations: list[EvaluationFiles] = field(default_factory=list)
    """Those on one set of images each."""
    shifted: list[EvaluationFiles] = field(default_factory=list)
    """Those on several sets, suites ``corruptions`` and ``shifts``: their numbers never head a page."""
    problems: list[str] = field(default_factory=list)

    @property
    def looks(self) -> list[dict[str, Any]]:
        """One record for each epoch that has one, validated or only noted, in order."""
        noted = [event for event in self.events if event.get("event") == "noted"]
        found = {whole(record["epoch"]): record for record in noted if number(record.get("epoch")) is not None}
        found |= {whole(record["epoch"]): record for record in self.epochs}
        return [found[epoch] for epoch in sorted(found)]


def read_runs(paths: Sequence[Path]) -> list[RunFiles]:
    """Reads run directories and gives each a name of its own.

    Raises:
        UserError: If a path is no run directory.
    """
    return [read_run(Path(path), name) for path, name in zip(paths, _names(paths), strict=True)]


def read_run(path: Path, name: str) -> RunFiles:
    """Reads one run directory, or the folder of one evaluation (``inure evaluate --out``)."""
    if not path.is_dir() or not any((path / mark).exists() for mark in _MARKS):
        found = "a folder without a run in it" if path.is_dir() else "no such folder"
        raise UserError(str(path), found, "a run directory", "the path that `inure train` printed last")
    problems: list[str] = []
    recipe_text = _read_text(path / "recipe.yaml", problems)
    epochs, events = _read_metrics(path / "metrics.jsonl", problems)
    evaluations = _read_evaluations(path, problems)
    return RunFiles(
        path=path,
        name=name,
        run=_read_json(path / "run.json", problems),
        recipe=_parse_recipe(recipe_text, problems),
        recipe_text=recipe_text,
        environment=_read_json(path / "environment.json", problems),
        epochs=epochs,
        events=events,
        evaluations=[found for found in evaluations if "sets" not in found.summary],
        shifted=[found for found in evaluations if "sets" in found.summary],
        problems=problems,
    )


def dig(tree: Any, key: str) -> Any:
    """The value at a dotted key, or None."""
    for part in key.split("."):
        if not isinstance(tree, dict):
            return None
        tree = tree.get(part)
    return tree


def number(value: Any) -> float | None:
    """``value`` if it is a finite number, else None: other people's JSON may hold null or NaN anywhere."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < float("inf") else None


def whole(value: Any) -> int:
    """``value`` as a count; 0 if it is none."""
    return int(number(value) or 0)


def records(value: Any) -> list[dict[str, Any]]:
    """The mappings in a list; nothing if it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _names(paths: Iterable[Path]) -> list[str]:
    """Folder names, with parents where two are alike, with a number where that does not help."""
    whole_paths = [Path(path).resolve() for path in paths]
    names = [path.name or str(path) for path in whole_paths]
    if len(set(names)) < len(names):
        names = ["/".join(path.parts[-2:]) for path in whole_paths]
    return [name if names.count(name) == 1 else f"{name} #{i + 1}" for i, name in enumerate(names)]


def _read_text(path: Path, problems: list[str]) -> str:
    if not path.exists():
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        problems.append(f"{path.name} is unreadable and was left out.")
        return ""


def _read_json(path: Path, problems: list[str]) -> dict[str, Any]:
    text = _read_text(path, problems)
    if not text:
        return {}
    try:
        tree = json.loads(text)
    except ValueError:
        tree = None
    if not isinstance(tree, dict):
        problems.append(f"{path.parent.name}/{path.name} is damaged and was left out.")
        return {}
    return tree


def _parse_recipe(text: str, problems: list[str]) -> dict[str, Any]:
    import yaml

    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError:
        problems.append("recipe.yaml is not YAML; it is shown as text only.")
        return {}
    return tree if isinstance(tree, dict) else {}


def _read_metrics(path: Path, problems: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Epochs and other events. A run killed in the middle of a write leaves half a line, which is normal."""
    epochs: dict[int, dict[str, Any]] = {}
    events = []
    lines = [line for line in _read_text(path, problems).splitlines() if line.strip()]
    damaged = 0
    for position, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            damaged += position < len(lines)
            continue
        if not isinstance(record, dict):
            damaged += 1
        elif record.get("event") == "epoch" and number(record.get("epoch")) is not None:
            epochs[whole(record["epoch"])] = record
        else:
            events.append(record)
    if damaged:
        problems.append(f"metrics.jsonl: {damaged} damaged {'line was' if damaged == 1 else 'lines were'} left out.")
    return [epochs[epoch] for epoch in sorted(epochs)], events


def _read_evaluations(path: Path, problems: list[str]) -> list[EvaluationFiles]:
    """Finished evaluations, by folder name; a folder without summary is one still under way."""
    folders = [path] if (path / "summary.json").exists() else sorted((path / "evaluations").glob("*/"))
    found = []
    for folder in folders:
        if not (folder / "summary.json").exists():
            problems.append(f"The evaluation {folder.name} has no summary: it was not finished.")
            continue
        summary = _read_json(folder / "summary.json", problems)
        if summary:
            summary.setdefault("suite", folder.name)
            outcomes = _read_outcomes(folder / "outcomes.parquet", problems)
            examples = _read_examples(folder / "examples.safetensors", problems)
            found.append(EvaluationFiles(summary, outcomes, examples, _read_json(folder / "audit.json", problems)))
    return found


def _read_outcomes(path: Path, problems: list[str]) -> "dict[str, numpy.ndarray] | None":
    import pyarrow
    import pyarrow.parquet

    if not path.exists():
        return None
    try:
        table = pyarrow.parquet.read_table(path, columns=list(_OUTCOME_COLUMNS))
        return {name: table[name].to_numpy() for name in _OUTCOME_COLUMNS}
    except (OSError, KeyError, ValueError, pyarrow.ArrowException):
        problems.append(f"{path.parent.name}/{path.name} is damaged and was left out.")
        return None


def _read_examples(path: Path, problems: list[str]) -> "dict[str, numpy.ndarray] | None":
    import safetensors
    import safetensors.numpy

    if not path.exists():
        return None
    try:
        tensors = safetensors.numpy.load_file(path)
        examples = {name: tensors[name] for name in _EXAMPLE_TENSORS}
    except (OSError, KeyError, ValueError, safetensors.SafetensorError):
        problems.append(f"{path.parent.name}/{path.name} is damaged and was left out.")
        return None
    if examples["x"].ndim != 4 or examples["x"].shape != examples["x_adv"].shape:
        problems.append(f"{path.parent.name}/{path.name} holds no pairs of images and was left out.")
        return None
    return examples
