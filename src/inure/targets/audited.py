"""``inure evaluate --audit``: the audit of a finished evaluation, beside it and in its flags."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..data import ImageSet
from ..display.console import Bars, stderr, table
from ..evaluation.audit import audit, draw
from ..evaluation.cascade import repeatable
from ..evaluation.conditions import Conditions
from ..evaluation.examples import Examples
from ..evaluation.flags import severe
from ..evaluation.nets import count_classes, prepared
from ..evaluation.results import AUDIT, AUDIT_PICTURE, SUMMARY
from ..evaluation.suites import SUITES, votes_of
from ..evaluation.transfer import transfer_members
from ..libraries import nn
from ..machine import files

_SIZE = 128
_OF = ("weights_hash", "data_hash", "index_hash", "threat", "seed", "mode")
"""What of a protocol an audit belongs to."""


def add_audit(conditions: Conditions, summary: dict[str, Any], net: nn.Module, images: ImageSet) -> dict[str, Any]:
    """Audit the net that a summary is about: ``audit.json``, ``audit.png``, and the flags into ``summary.json``.

    What is there of the same net, images and threat is not done again.

    Returns:
        The summary with the flags of the audit, and ``audit``: how many checks passed, failed, or decided nothing.
    """
    folder, threat, device = conditions.out, conditions.threat, conditions.device
    assert folder is not None
    assert device is not None
    of = {key: summary["protocol"][key] for key in _OF}
    found = _found(folder, of)
    if found is None:
        # Drawn by their index: the first ones may all be of one class
        examples = Examples.of(images.subset(Examples.of(images, None).sample(_SIZE)), None)
        model, _ = prepared(net, images, conditions.mode, device)
        members = []
        if conditions.sources:
            members = transfer_members(
                conditions.sources, threat, examples, classes=count_classes(model, examples, device),
                attacked=of["weights_hash"], device=device,
            )  # fmt: skip
        averages = votes_of(SUITES[summary["suite"]](threat)) > 1
        with Bars(quiet=conditions.quiet) as bars, repeatable(device):
            result = audit(
                model, examples, threat=threat, seed=conditions.seed, batch_size=conditions.batch_size, device=device,
                bars=bars, transfer=members[0] if members else None, averages=averages, size=_SIZE,
            )  # fmt: skip
        found = {"of": of, **asdict(result)}
        files.write_bytes(folder / AUDIT_PICTURE, draw(result))
        files.write_json(folder / AUDIT, found)
    summary = _with(summary, found)
    files.write_json(folder / SUMMARY, summary)
    return summary


def show_audit(folder: Path) -> None:
    """The checks as a table, on stderr."""
    found = json.loads((folder / AUDIT).read_text(encoding="utf-8"))
    said = {True: "passed", False: "FAILED", None: "not decidable"}
    rows = [[c["letter"], c["question"], said[c["passed"]], c["detail"]] for c in found["checks"]]
    title = f"audit of {found['subset']['size']} examples"
    console = stderr()
    console.print(table(title, ["", "question", "", "found"], rows, words=True))
    console.print(f"curves: {folder / AUDIT_PICTURE}", markup=False, soft_wrap=True)


def _found(folder: Path, of: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / AUDIT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if found.get("of") == json.loads(json.dumps(of)) else None


def _with(summary: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    known = {flag["name"] for flag in summary["flags"]}
    flags = [*summary["flags"], *(flag for flag in found["flags"] if flag["name"] not in known)]
    passed = [check["passed"] for check in found["checks"]]
    return summary | {
        "flags": flags,
        "verified": not severe(flags),
        "audit": {"passed": passed.count(True), "failed": passed.count(False), "undecided": passed.count(None)},
    }
