"""Writing files so that a crash at any moment leaves either the old or the new content."""

import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ..settings.errors import UserError


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` atomically: write beside it, flush to disk, rename.

    Raises:
        UserError: If no space is left or the folder cannot be written; the old file stays.
    """
    handle = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        handle = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        handle.chmod(0o644)
        handle.replace(path)
    except OSError as error:
        if handle is not None:
            handle.unlink(missing_ok=True)
        raise disk_mistake(path, error) from error


def make_folder(path: Path) -> None:
    """A folder and its parents, unless they are there.

    Raises:
        UserError: If that is not possible.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_mistake(path, error) from error


def disk_mistake(path: Path, error: OSError) -> UserError:
    """An error of the file system in one line."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(str(path), "no space left on the device", "a disk with room", "free space, then --resume")
    return UserError(str(path), error.strerror or str(error), "a folder that can be written")


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, tree: Any) -> None:
    """Replace a JSON file atomically."""
    write_text(path, json.dumps(tree, indent=2, ensure_ascii=False) + "\n")


def append_line(path: Path, record: Any) -> None:
    """Append one JSON line and flush it to disk; a torn last line is what a reader must expect after a crash."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise disk_mistake(path, error) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file; a torn last line is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def clear_leftovers(folder: Path) -> None:
    """Remove the temporary files that a killed process left."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)
