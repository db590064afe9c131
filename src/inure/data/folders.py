"""Folders of images with a subfolder for each class, listed by the ``datasets`` library in the order of names."""

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..settings.errors import UserError
from .hub import library, quiet
from .spec import SPLITS, UNNAMED, Spec

if TYPE_CHECKING:
    from datasets import Dataset


def find_image_folder(spec: Spec, setting: str) -> "dict[str, Dataset]":
    """The splits of a folder with a subfolder per class, under ``train/``, ``test/`` and so on if there are such.

    Raises:
        UserError: If the folder is no such thing.
    """
    root = Path(spec.place).expanduser()
    folders = {UNNAMED: root}
    # A split holds folders of classes; a class that is called "test" holds images.
    named = {SPLITS[sub.name.lower()]: sub for sub in _folders(root) if sub.name.lower() in SPLITS and _folders(sub)}
    # Left to itself, ``datasets`` files train/test/0.png under both splits, and labels no split of one class.
    patterns = {split or "train": f"{glob.escape(str(path))}/**" for split, path in (named or folders).items()}
    allowed = "parquet files, or images in a subfolder for each of two or more classes"
    datasets = library(spec, setting)
    try:
        with quiet():
            found = datasets.load_dataset("imagefolder", data_files=patterns, drop_labels=False)
    except (ValueError, OSError, datasets.exceptions.DatasetsError):
        raise UserError(setting, f"{spec.place}, a folder without images", allowed) from None
    if any("label" not in part.features or part.features["label"].num_classes < 2 for part in found.values()):
        raise UserError(setting, f"{spec.place}, a folder without class subfolders", allowed)
    if not named:
        return {UNNAMED: found["train"]}
    _refuse_untrained_classes(found, spec, setting)
    return {split: found[split] for split in patterns}


def _refuse_untrained_classes(found: "Mapping[str, Dataset]", spec: Spec, setting: str) -> None:
    if "train" not in found:
        return
    names = found["train"].features["label"].names
    trained = set(found["train"].unique("label"))
    for split in found:
        unknown = [names[k] for k in found[split].unique("label") if k not in trained]
        if unknown:
            given = f"class {unknown[0]!r} in the {split} split of {spec.place}, not in train"
            raise UserError(setting, given, "the same classes in every split")


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
