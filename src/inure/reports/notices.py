"""What a reader must know before believing the numbers: flags, warnings, gaps, unfair comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .run_files import EvaluationFiles, RunFiles, dig, number, records, whole
from .scores import find_evaluation

_SERIOUS = {"severe", "high", "error", "critical", "serious"}


@dataclass(frozen=True)
class Notice:
    """One line of the box at the top of the page."""

    run: str
    """Name of the run; empty if it concerns all."""
    word: str
    """What kind of notice, in a word or two."""
    text: str
    is_serious: bool = False


def notices(runs: Sequence[RunFiles], key: tuple[str, str] | None) -> list[Notice]:
    """All notices, serious ones first."""
    found = _comparison_notices(runs, key)
    for run in runs:
        found += _evaluation_notices(run, key)
        found += _training_notices(run)
        found += [Notice(run.name, "file", problem) for problem in run.problems]
    return sorted(found, key=lambda notice: not notice.is_serious)


def is_verified(evaluation: EvaluationFiles) -> bool:
    """False only where the evaluation says so."""
    return evaluation.summary.get("verified") is not False


def progress_of(run: RunFiles) -> str:
    """How far training got, as a sentence; empty for an evaluation without a run."""
    done = max(whole(run.run.get("epochs_done")), whole(run.epochs[-1].get("epoch")) if run.epochs else 0)
    planned = whole(run.recipe.get("epochs"))
    if not done and (run.recipe or run.run):
        return "No epoch of training is done yet."
    how_far = f"epoch {done} of {planned}" if planned else f"epoch {done}"
    if _collapsed(run):
        far = f"{done} of {planned} epochs" if planned else f"{done} {'epoch' if done == 1 else 'epochs'}"
        return f"Trained for {far}: stopped at catastrophic overfitting."
    match run.run.get("status"):
        case "finished":
            return f"Trained for {done} {'epoch' if done == 1 else 'epochs'}."
        case "stopped":
            return f"Training was stopped after {how_far}."
        case "running":
            return f"Training is still under way, or was killed: {how_far} is done."
    return f"Training got to {how_far}; its end was not recorded." if run.epochs or run.recipe else ""


def _collapsed(run: RunFiles) -> bool:
    """Whether a guard ended training for good, as the recipe asks; nothing is left to do then."""
    return run.run.get("collapsed") is True and run.run.get("status") != "running"


def _comparison_notices(runs: Sequence[RunFiles], key: tuple[str, str] | None) -> list[Notice]:
    compared = [evaluation for run in runs if (evaluation := find_evaluation(run, key)) is not None]
    if len(compared) < 2:
        return []
    counts = [whole(evaluation.summary.get("examples")) for evaluation in compared]
    if len(set(counts)) > 1:
        text = f"The runs were measured on different numbers of examples ({', '.join(map(str, counts))})."
        return [Notice("", "unequal comparison", text, is_serious=True)]
    if len({_identity(evaluation) for evaluation in compared} - {""}) > 1:
        text = "The runs were measured on different test examples: their accuracies cannot be compared."
        return [Notice("", "unequal comparison", text, is_serious=True)]
    return []


def _identity(evaluation: EvaluationFiles) -> str:
    """Equal for equal test examples, by the fingerprints in the protocol; empty if unknown."""
    hashes = [dig(evaluation.summary, f"protocol.{name}_hash") for name in ("data", "index")]
    return " ".join(map(str, hashes)) if hashes[0] else ""


def _evaluation_notices(run: RunFiles, key: tuple[str, str] | None) -> list[Notice]:
    found = []
    for evaluation in (*run.evaluations, *run.shifted):
        suite = str(evaluation.summary.get("suite"))
        if not is_verified(evaluation):
            text = f"The robust accuracy under suite {suite} is not verified. Explain its flags first."
            found.append(Notice(run.name, "not verified", text, is_serious=True))
        for flag in records(evaluation.summary.get("flags")):
            severity = str(flag.get("severity", "flag"))
            text = f"{flag.get('name', '?')} (suite {suite}): {flag.get('detail', '')}"
            found.append(Notice(run.name, severity, text, severity.lower() in _SERIOUS))
    command = f"inure evaluate {run.path}"
    if not run.evaluations:
        what = "Only shifted images were measured." if run.shifted else "There are no test accuracies yet."
        found.append(Notice(run.name, "not evaluated", f"{what} `{command}` measures the test images."))
    elif all(number(evaluation.summary.get("robust_accuracy")) is None for evaluation in run.evaluations):
        text = f"Only clean accuracy was measured. `{command}` attacks the model."
        found.append(Notice(run.name, "not attacked", text))
    elif find_evaluation(run, key) is None:
        missing = f"`{command} --suite {key[0]}` adds it." if key else ""
        text = f"Not measured with the suite and threat of the headline. {missing}"
        found.append(Notice(run.name, "not compared", text))
    return found


def _training_notices(run: RunFiles) -> list[Notice]:
    warnings: dict[str, list[dict[str, Any]]] = {}
    for event in run.events:
        if event.get("event") == "warning":
            warnings.setdefault(str(event.get("kind", "warning")), []).append(event)
    found = []
    for kind, events in warnings.items():
        first, last = (event.get("epoch", "?") for event in (events[0], events[-1]))
        when = f"{len(events)} times, epochs {first} to {last}; at last" if len(events) > 1 else f"Epoch {last}"
        text = f"{when}: {events[-1].get('detail', '')}"
        found.append(Notice(run.name, kind.replace("_", " "), text, is_serious=True))
    if run.run.get("status") != "finished" and not _collapsed(run) and (sentence := progress_of(run)):
        reasons = [str(event.get("reason")) for event in run.events if event.get("event") == "stop"]
        why = f" Reason: {reasons[-1].replace('_', ' ')}." if reasons and run.run.get("status") == "stopped" else ""
        text = f"{sentence}{why} `inure train RECIPE --out {run.path} --resume` goes on."
        found.append(Notice(run.name, "unfinished", text))
    return found
