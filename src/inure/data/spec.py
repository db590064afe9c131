"""The SPEC of a data set, ``PLACE``, ``PLACE#split`` or ``PLACE#split@KIND:SEVERITY``, and which split is meant."""

import difflib
import glob
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..settings.errors import UserError

ALLOWED = (
    "digits, a parquet file, a folder or glob of parquet files, an image folder, hub:OWNER/NAME, or NAME:DIR as in "
    "`inure list shifts`"
)
SPLITS = {"train": "train", "test": "test", "validation": "validation", "val": "validation"}
"""Words in file and folder names, and the split that each one means."""
UNNAMED = ""
"""The split of files whose names tell none."""
_PREFERENCE = {"train": ("train",), "test": ("test", "validation"), "validation": ("validation",)}


class Spec(NamedTuple):
    """Where a data set is."""

    text: str
    """As the user wrote it."""
    place: str
    split: str | None
    """What was written after ``#``."""
    corruption: str | None = None
    """What was written after ``@``."""


def parse_spec(text: str) -> Spec:
    """``PLACE#split@KIND:SEVERITY`` in its parts; a ``#`` or ``@`` in the name of existing files belongs to it."""
    whole, corruption = text, None
    before, _, after = text.rpartition("@")
    # The split may also come last
    kind, mark, split = after.partition("#")
    if before and "/" not in after and not _is_there(text) and not _is_there(f"{before}@{kind}"):
        whole, corruption = before + mark + split, kind
    place, mark, split = whole.rpartition("#")
    if not mark or Path(whole).exists():
        return Spec(text, whole, None, corruption)
    return Spec(text, place, SPLITS.get(split, split), corruption)


def choose_splits(spec: Spec, there: Iterable[str], wanted: str | None, setting: str) -> tuple[str, ...]:
    """The splits to read: the one after ``#``; else a lone one; else the one wanted; else, for None, all.

    ``wanted="test"`` falls back on ``validation``, for sets that publish no test labels.

    Raises:
        UserError: If there is none such; lists those that are there.
    """
    there = tuple(there)
    if spec.split is not None:
        if spec.split in there:
            return (spec.split,)
        raise UserError(setting, spec.text, _list_splits(spec.place, there), "another split")
    if wanted is None or len(there) == 1:
        return there
    for name in _PREFERENCE.get(wanted, (wanted,)):
        if name in there:
            return (name,)
    raise UserError(setting, f"no {wanted} split in {spec.text}", _list_splits(spec.place, there))


def nearest(place: str) -> str | None:
    """The names beside a path that does not exist that look most like it."""
    path = Path(place).expanduser()
    while not path.parent.is_dir() and path.parent != path:
        path = path.parent
    if not path.parent.is_dir():
        return None
    around = {entry.name: str(entry) for entry in path.parent.iterdir() if not entry.name.startswith(".")}
    if str(path.parent) == ".":
        around["digits"] = "digits"
    close = difflib.get_close_matches(path.name, around, n=3, cutoff=0.5)
    return " or ".join(around[name] for name in close) or None


def _is_there(place: str) -> bool:
    path = Path(place).expanduser()
    return bool(place) and (path.exists() or (glob.has_magic(place) and any(glob.iglob(str(path)))))


def _list_splits(place: str, there: tuple[str, ...]) -> str:
    if there == (UNNAMED,):
        return f"{place} alone: its names tell no split"
    return " | ".join(f"{place}#{name}" for name in there if name != UNNAMED)
