"""The files of a finished evaluation: ``examples.safetensors``, ``outcomes.parquet`` and, last, ``summary.json``.

``adversarial.safetensors`` too, where the images are stored (see ``stored.py``); ``audit.json`` and ``audit.png``
where there was an audit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..libraries import pa, pq
from ..machine import files
from .journal import refuse_other_protocol, unfinished

SUMMARY, OUTCOMES, EXAMPLES = "summary.json", "outcomes.parquet", "examples.safetensors"
ADVERSARIAL = "adversarial.safetensors"
AUDIT, AUDIT_PICTURE = "audit.json", "audit.png"
FILES = (EXAMPLES, ADVERSARIAL, AUDIT, AUDIT_PICTURE, OUTCOMES, SUMMARY)


def write_results(folder: Path, table: pa.Table, summary: dict[str, Any]) -> None:
    """Replace both files, each atomically."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    files.write_bytes(folder / OUTCOMES, buffer.getvalue().to_pybytes())
    files.write_json(folder / SUMMARY, summary)


def set_aside(folder: Path, names: Sequence[str] = FILES) -> Path | None:
    """Move finished results to ``folder/previous``, over those there; None if there are none.

    Args:
        folder: Where they lie.
        names: Their files; with the last of them they are finished.
    """
    if not (folder / names[-1]).exists():
        return None
    previous = folder / "previous"
    previous.mkdir(exist_ok=True)
    for name in names:
        (previous / name).unlink(missing_ok=True)
        if (folder / name).exists():
            (folder / name).replace(previous / name)
    return previous


def read_results(folder: Path, protocol: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]] | None:
    """The table and the summary of a finished evaluation; None if there is none, or a newer one was cut off.

    Raises:
        UserError: If it was made under another protocol.
    """
    found = None if unfinished(folder) else read_files(folder)
    if found is not None:
        refuse_other_protocol(found[1].get("protocol", {}), protocol)
    return found


def read_files(folder: Path) -> tuple[pa.Table, dict[str, Any]] | None:
    """The table and the summary that lie there, whatever they are of; None if they cannot be read."""
    try:
        return pq.read_table(folder / OUTCOMES), json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
