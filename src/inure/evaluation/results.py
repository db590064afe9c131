"""The files of a finished evaluation: ``outcomes.parquet`` and, written last, ``summary.json``."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .. import files
from .journal import refuse_other_protocol, unfinished

SUMMARY, OUTCOMES = "summary.json", "outcomes.parquet"


def write_results(folder: Path, table: pa.Table, summary: dict[str, Any]) -> None:
    """Replace both files, each atomically."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    files.write_bytes(folder / OUTCOMES, buffer.getvalue().to_pybytes())
    files.write_json(folder / SUMMARY, summary)


def read_results(folder: Path, protocol: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]] | None:
    """The table and the summary of a finished evaluation; None if there is none, or a newer one was cut off.

    Raises:
        UserError: If it was made under another protocol.
    """
    if unfinished(folder):
        return None
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        table = pq.read_table(folder / OUTCOMES)
    except (OSError, ValueError):
        return None
    refuse_other_protocol(summary.get("protocol", {}), protocol)
    return table, summary
