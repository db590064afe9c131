"""What an evaluation has found so far, on disk after every batch, so that a kill costs at most one batch."""

import json
from pathlib import Path
from typing import Any

from ..machine import files
from ..settings.errors import UserError
from ..settings.trees import differences


class Journal:
    """JSON lines in ``progress-<rank>.jsonl``: the protocol, then one record a batch.

    A record: attack, seconds, forwards, backwards, and lists over its examples: index, label,
    prediction, distance, confidence.
    """

    def __init__(self, folder: Path | None, rank: int = 0, world_size: int = 1) -> None:
        self.folder, self._rank, self._world_size = folder, rank, world_size
        self._path = folder / f"progress-{rank}.jsonl" if folder else None
        self._protocol: dict[str, Any] = {}
        self.records: list[dict[str, Any]] = []

    def begin(self, protocol: dict[str, Any], *, resume: bool) -> None:
        """Read what is there (``resume``) or start anew.

        Raises:
            UserError: If what is there was found under another protocol.
        """
        self._protocol = protocol
        if self.folder is None or self._path is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise files.disk_mistake(self.folder, error) from error
        if resume:
            self.records = self._read_all()
        elif self._rank == 0:
            self._remove_strays()
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
        """The records of all processes, once they are all done.

        Raises:
            UserError: If the processes did not evaluate the same net on the same data.
        """
        if self.folder is None:
            return self.records
        try:
            return self._read_all()
        except UserError as error:
            given = error.given.replace("another protocol", "a net or data that differ between the processes")
            remedy = "--weights, or torch.manual_seed in the function"
            raise UserError("TARGET", given, "the same in every process", remedy) from None

    def clear(self) -> None:
        """Remove the journals: the outcomes hold all they held."""
        if self.folder is not None:
            for path in _journals(self.folder):
                path.unlink(missing_ok=True)
            files.clear_leftovers(self.folder)

    def _read_all(self) -> list[dict[str, Any]]:
        assert self.folder is not None
        records = []
        for path in _journals(self.folder):
            header, *rest = files.read_lines(path) or [{"protocol": self._protocol}]
            refuse_other_protocol(header.get("protocol", {}), self._protocol)
            records += rest
        return records

    def _remove_strays(self) -> None:
        """Journals that a killed evaluation with more processes left: nobody here would overwrite them."""
        assert self.folder is not None
        own = {f"progress-{rank}.jsonl" for rank in range(self._world_size)}
        for path in _journals(self.folder):
            if path.name not in own:
                path.unlink(missing_ok=True)


def unfinished(folder: Path) -> bool:
    """Whether an evaluation was begun here and did not come to its end."""
    return bool(_journals(folder))


def refuse_other_protocol(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Results found under different settings are never mixed.

    Raises:
        UserError: Naming the keys that differ.
    """
    if changed := differences(theirs, ours):
        given = f"another protocol ({', '.join(changed)})"
        raise UserError("--resume", given, "the settings it was begun with", "no --resume to start anew")


def _journals(folder: Path) -> list[Path]:
    return sorted(folder.glob("progress-*.jsonl"))


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
