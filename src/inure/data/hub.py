"""What the ``datasets`` library reads for us: sets on the Hugging Face hub, and folders of images."""

import glob
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import UserError
from .encoded import ArrowCells, Encoded, checked_classes, hash_cells
from .parquet import IMAGE_COLUMNS, LABEL_COLUMNS, find_column, whole_labels
from .spec import SPLITS, UNNAMED, Spec

if TYPE_CHECKING:
    from datasets import Dataset


@lru_cache(maxsize=4)
def find_on_hub(spec: Spec, setting: str) -> "dict[str, Dataset]":
    """The splits of ``hub:OWNER/NAME``.

    Raises:
        UserError: If it cannot be reached, does not exist, or needs code of its own.
    """
    name = spec.place.removeprefix("hub:")
    if name.count("/") != 1 or not all(name.split("/")):
        raise UserError(setting, spec.text, "hub:OWNER/NAME")
    try:
        datasets = _library(spec, setting)
        with _quiet():
            found: dict[str, Any] = datasets.load_dataset(name)
    except UserError:
        raise
    # The hub's client raises errors of half a dozen libraries; all of them mean that the set is not to be had.
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        given = f"{spec.place}, which could not be loaded ({reason})"
        raise UserError(setting, given, "a data set that the Hugging Face hub serves") from None
    return {SPLITS.get(split, split): found[split] for split in found}


def find_image_folder(spec: Spec, setting: str) -> "dict[str, Dataset]":
    """The splits of a folder with a subfolder per class, under ``train/``, ``test/`` and so on if there are such.

    Raises:
        UserError: If the folder is no such thing.
    """
    root = Path(spec.place).expanduser()
    folders = {UNNAMED: root}
    # A split holds folders of classes; a class that is called "test" holds images.
    named = {SPLITS[sub.name.lower()]: sub for sub in _folders(root) if sub.name.lower() in SPLITS and _folders(sub)}
    # Patterns of our own: left to itself, ``datasets`` files train/test/0.png under both splits.
    patterns = {split or "train": f"{glob.escape(str(path))}/**" for split, path in (named or folders).items()}
    allowed = "parquet files, or images in a subfolder for each of two or more classes"
    datasets = _library(spec, setting)
    try:
        with _quiet():
            found = datasets.load_dataset("imagefolder", data_files=patterns)
    except (ValueError, OSError, datasets.exceptions.DatasetsError):
        raise UserError(setting, f"{spec.place}, a folder without images", allowed) from None
    if any("label" not in found[split].column_names for split in found):
        raise UserError(setting, f"{spec.place}, a folder without class subfolders", allowed)
    if not named:
        return {UNNAMED: found["train"]}
    _refuse_untrained_classes(found, spec, setting)
    return {split: found[split] for split in patterns}


def read_dataset(parts: "Sequence[Dataset]", place: str, setting: str) -> Encoded:
    """The rows of one or several splits; images of a folder sorted by file name."""
    from datasets import ClassLabel

    chunks, labels, names = [], [], None
    for part in parts:
        schema = part.data.schema
        image = find_column(schema, IMAGE_COLUMNS, "an image", place, setting)
        label = find_column(schema, LABEL_COLUMNS, "a label", place, setting)
        feature = part.features[label]
        names = tuple(feature.names) if isinstance(feature, ClassLabel) else names
        chunks += part.data.column(image).chunks
        labels.append(whole_labels(part.data.column(label), f"column {label} of {place}", setting))
    starts = [0, *accumulate(len(part) for part in labels)][:-1]
    together = torch.cat(labels) if labels else torch.empty(0, dtype=torch.int64)
    cells = ArrowCells(chunks, [place] * len(starts), starts)
    return Encoded(
        labels=together,
        class_names=checked_classes(together, names, cells.place, setting),
        read=lambda memory_limit: cells,
        digest=partial(hash_cells, cells, together),
    )


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


def _library(spec: Spec, setting: str) -> Any:
    try:
        import datasets
    except ImportError:
        given = f"{spec.text}, which needs the datasets package"
        raise UserError(setting, given, "parquet files without it", "pip install datasets") from None
    return datasets


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no retry notes from ``datasets``: a mistake of the user is one line on stderr."""
    import datasets
    from huggingface_hub.utils import logging as hub_logging

    bars, verbosity = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    hub_verbosity = hub_logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if not bars:
            datasets.enable_progress_bars()
