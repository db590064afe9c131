"""What an evaluation has found so far, on disk after every batch, so that a kill costs at most one batch."""

import json
from pathlib import Path
from typing import Any

from .. import files
from ..config import differences
from ..errors import UserError


class Journal:
    """JSON lines in ``progress-<rank>.jsonl``: the protocol, then one record a batch.

    A record: attack, seconds, forwards, backwards, and lists over its examples: index, label,
    prediction, distance, confidence.
    """

    def __init__(self, folder: Path | None, rank: int = 0) -> None:
        self.folder = folder
        self._path = folder / f"progress-{rank}.jsonl" if folder else None
        self.records: list[dict[str, Any]] = []

    def begin(self, protocol: dict[str, Any], *, resume: bool) -> None:
        """Read what is there (``resume``) or start anew.

        Raises:
            UserError: If what is there was found under another protocol.
        """
        if self.folder is None or self._path is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if resume:
            self.records = self._read_all(protocol)
        own = [{"protocol": protocol}]
        if resume and self._path.exists():
            own = files.read_lines(self._path) or own
        # Rewritten whole: a torn last line would swallow the next record
        files.write_text(self._path, "".join(_line(record) for record in own))

    def add(self, record: dict[str, Any]) -> None:
        """Append one batch and flush it to disk."""
        self.records.append(record)
        if self._path is not None:
            files.append_line(self._path, record)

    def gather(self) -> list[dict[str, Any]]:
        """The records of all processes."""
        if self.folder is None:
            return self.records
        return [r for path in sorted(self.folder.glob("progress-*.jsonl")) for r in files.read_lines(path)[1:]]

    def clear(self) -> None:
        """Remove the journals: the outcomes hold all they held."""
        for path in self.folder.glob("progress-*.jsonl") if self.folder else []:
            path.unlink(missing_ok=True)

    def _read_all(self, protocol: dict[str, Any]) -> list[dict[str, Any]]:
        records = []
        for path in sorted(self.folder.glob("progress-*.jsonl")) if self.folder else []:
            header, *rest = files.read_lines(path) or [{"protocol": protocol}]
            if changed := differences(header.get("protocol", {}), protocol):
                raise UserError(
                    "--resume", f"another protocol ({', '.join(changed)})", "the settings it was begun with"
                )
            records += rest
        return records


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
