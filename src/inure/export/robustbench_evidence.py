"""Which evaluation of a run stands behind a submission to RobustBench, and of which data set it is."""

import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from ..data.shifts import SHIFTS
from ..data.spec import parse_spec
from ..evaluation.flags import severe
from ..evaluation.protocol import weights_hash
from ..models import Classifier
from ..runs.run import Run
from ..settings.errors import UserError
from ..threat import describe_threat, parse_threat

SUITES = ("autoattack", "autoattack_plus")
LISTED = {"linf": "Linf", "l2": "L2"}
"""Norms, and the names of their lists."""


class DataSet(NamedTuple):
    """What RobustBench's lists of a data set are about."""

    classes: int
    size: int | None
    """Pixels on a side; None where its preprocessing decides."""
    examples: int
    epsilons: dict[str, str]
    """The radius of each list, as in ``describe_threat``."""


DATA_SETS = {
    "cifar10": DataSet(10, 32, 10_000, {"linf": "8/255", "l2": "0.5"}),
    "cifar100": DataSet(100, 32, 10_000, {"linf": "8/255"}),
    "imagenet": DataSet(1000, None, 5_000, {"linf": "4/255"}),
}
_WRITTEN = {"cifar10": "cifar[-_]?10", "cifar100": "cifar[-_]?100", "imagenet": "(imagenet|ilsvrc)([-_]?(1k|2012))?"}
_PART = r"([-_.]?(train|test|val|parquet|[*]).*)?"


def find_evaluation(run: Run, plain: Classifier, mode: Any, threat: str | None) -> tuple[Path, dict[str, Any]]:
    """The ``summary.json`` of the most examples, of these the one of the lowest robust accuracy, and what it says.

    Args:
        run: Whose ``evaluations`` are looked at.
        plain: The net to submit: the evaluation must be of exactly its weights.
        mode: Of which ``plain`` was made, for messages.
        threat: As ``linf:8/255``, where there are several.

    Raises:
        UserError: If there is none, or none that is verified, of these weights and of unchanged test images.
    """
    wanted = describe_threat(parse_threat(threat, "--info threat")) if threat is not None else None
    digest, fitting, refused = weights_hash(plain), [], []
    for path in sorted((run.path / "evaluations").glob("*/summary.json")):
        summary = _read(path)
        if summary.get("suite") not in SUITES or wanted not in (None, summary["threat"]):
            continue
        mistake = _mistake(run, path, summary, digest, mode)
        if mistake is None:
            fitting.append((path, summary))
        else:
            refused.append(mistake)
    if refused and not fitting:
        raise max(refused, key=lambda pair: pair[0])[1]
    if not fitting:
        options = f" --mode {mode}" if isinstance(mode, str) else ""
        command = f"inure evaluate {run.path} --suite autoattack{options}"
        under = f" under {wanted}" if wanted else ""
        raise UserError("RUN", f"{run.path} without one", f"an evaluation by {' | '.join(SUITES)}{under}", command)
    threats = sorted({summary["threat"] for _, summary in fitting})
    if len(threats) > 1:
        raise UserError("--info", "no threat", f"one of {' | '.join(threats)}", f"--info threat={threats[0]}")
    return min(fitting, key=lambda pair: (-pair[1]["examples"], pair[1]["robust_accuracy"]))


def data_set_named(spec: str, facts: dict[str, Any]) -> str | None:
    """RobustBench's name of a data set, if that of its files and the shape of its images tell it."""
    for part in reversed(Path(parse_spec(spec).place).parts):
        for name, written in _WRITTEN.items():
            if re.fullmatch(written + _PART, part, re.IGNORECASE) and fits(name, facts) is None:
                return name
        if not re.match(r"(train|test|val|data|[*\d])", part, re.IGNORECASE):
            return None
    return None


def fits(name: str, facts: dict[str, Any]) -> str | None:
    """None if a run of these facts can be of that data set, else what it would have to be."""
    classes, size, *_ = DATA_SETS[name]
    channels, height, width = facts["input_shape"]
    if channels == 3 and facts["num_classes"] == classes and size in (None, height) and height == width:
        return None
    return f"{classes} classes and images of 3x{size or 'N'}x{size or 'N'}, as {name} has"


def evaluated_images(run: Run, summary: dict[str, Any]) -> str:
    """The SPEC of the images of an evaluation: ``--data`` of its command, else the recipe's."""
    words = shlex.split(summary.get("command", ""))
    data = run.recipe().data
    return words[words.index("--data") + 1] if "--data" in words[:-1] else data.test or data.source


def _mistake(run: Run, path: Path, summary: dict[str, Any], digest: str, mode: Any) -> tuple[int, UserError] | None:
    """What stands against an evaluation, and how far it came before that."""
    images, kind, where = parse_spec(evaluated_images(run, summary)), summary["threat"].partition(":")[0], path.parent
    if summary["protocol"]["weights_hash"] != digest:
        other = "other weights" if summary["mode"] == mode else f"mode {summary['mode']}"
        allowed = f"one of the net to export{'' if mode is None else f' (mode {mode})'}"
        return 0, UserError("RUN", f"{where}, an evaluation of {other}", allowed, "inure evaluate or --mode")
    if images.corruption is not None or images.place.partition(":")[0] in SHIFTS or "readout" in summary["protocol"]:
        return 1, UserError("RUN", f"{where}, an evaluation on {images.text}", "one on unchanged test images")
    if kind not in LISTED:
        allowed = f"{' | '.join(LISTED)}: RobustBench has no list for another norm"
        return 2, UserError("RUN", f"{where}, an evaluation under {summary['threat']}", allowed)
    if low := summary["protocol"].get("search_precision"):
        return 2, UserError("RUN", f"{where}, attacked in {low}", "attacks in float32", "no --search-precision")
    if not summary["verified"]:
        raised = ", ".join(severe(summary["flags"]))
        return 3, UserError("RUN", f"{where}, which is unverified ({raised})", "an evaluation without severe flags")
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(str(path), "damaged JSON", "what inure evaluate wrote", "inure evaluate again") from None
