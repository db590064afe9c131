"""Which parquet files belong together: the splits that file names tell, and folders that mix several data sets."""

import fnmatch
import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..settings.errors import UserError
from .spec import SPLITS, UNNAMED, Spec

_SHARD = re.compile(r"[-_.]?\d{4,}-of-\d{4,}.*$")


def find_shards(spec: Spec, setting: str) -> dict[str, list[Path]]:
    """The files of each split of one file, a folder or a glob, sorted by name; empty where there are none.

    Raises:
        UserError: If they belong to several data sets; names a glob for each.
    """
    base, files = _parquet_files(spec.place)
    families: dict[tuple[str, ...], list[Path]] = {}
    splits: dict[str, list[Path]] = {}
    for file in files:
        family, split = _family_and_split(file.relative_to(base).as_posix())
        families.setdefault(family, []).append(file)
        splits.setdefault(split, []).append(file)
    if len(families) > 1:
        alone = sorted(_pattern(base, members, files) for members in families.values())
        remedy = " or ".join(alone[:6])
        raise UserError(setting, f"{spec.place}, which mixes {len(families)} data sets", "one data set", remedy)
    return splits


def _parquet_files(place: str) -> tuple[Path, list[Path]]:
    """The folder that names are relative to, and the files."""
    path = Path(place).expanduser()
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        found = [file for file in path.rglob("*.parquet") if file.is_file()]
        base = path
    else:
        found = [Path(name) for name in glob.glob(str(path), recursive=True) if name.endswith(".parquet")]
        base = Path(*path.parts[: _first_magic(path)])
    visible = [file for file in found if not any(p.startswith(".") for p in file.relative_to(base).parts)]
    return base, sorted(visible, key=lambda file: file.relative_to(base).as_posix())


def _first_magic(path: Path) -> int:
    magic = [i for i, part in enumerate(path.parts) if glob.has_magic(part)]
    return magic[0] if magic else len(path.parts) - 1


def _family_and_split(name: str) -> tuple[tuple[str, ...], str]:
    """The words of a file's name that tell its data set, and its split.

    ``cifar10-train.parquet`` is (cifar10), train; ``data/test-00000-of-00001-b42c.parquet`` is (data), test.
    """
    words = re.split(r"[-_./\s]+", _SHARD.sub("", name.removesuffix(".parquet")).lower())
    told = [i for i, word in enumerate(words) if word in SPLITS]
    last = told[-1] if told else len(words)
    # Numbers behind the split, and long ones anywhere, count shards: they do not tell cifar-10 from cifar-100.
    shard = {i for i, word in enumerate(words) if word.isdigit() and (i > last or len(word) >= 4)}
    family = tuple(word for i, word in enumerate(words) if word and i not in shard and i not in told)
    return family, SPLITS[words[last]] if told else UNNAMED


def _pattern(base: Path, members: Sequence[Path], files: Sequence[Path]) -> str:
    """A SPEC for ``members`` alone out of ``files``."""
    if len(members) == 1:
        return str(members[0])
    names = [file.relative_to(base).as_posix() for file in members]
    others = [file.relative_to(base).as_posix() for file in files if file not in members]
    prefix = os.path.commonprefix(names)
    folder = prefix.rpartition("/")[0]
    if folder and not any(name.startswith(folder + "/") for name in others):
        return str(base / folder)
    for start in (re.sub(r"[^-_.]*$", "", prefix), prefix):
        reached = start and all("/" not in name[len(start) :] for name in names)
        if reached and not any(fnmatch.fnmatch(name, start + "*.parquet") for name in others):
            return str(base / (start + "*.parquet"))
    return str(members[0])
