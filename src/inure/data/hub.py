"""Data sets on the Hugging Face hub, through the ``datasets`` library, which is imported only when it is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ..libraries import torch
from ..settings.errors import UserError
from .encoded import ArrowCells, Encoded, checked_classes, hash_cells
from .parquet import IMAGE_COLUMNS, LABEL_COLUMNS, find_column, whole_labels
from .spec import SPLITS, Spec

if TYPE_CHECKING:
    from datasets import Dataset


@lru_cache(maxsize=4)
def find_on_hub(spec: Spec, setting: str) -> dict[str, Dataset]:
    """The splits of ``hub:OWNER/NAME``.

    Raises:
        UserError: If it cannot be reached, does not exist, or needs code of its own.
    """
    name = spec.place.removeprefix("hub:")
    if name.count("/") != 1 or not all(name.split("/")):
        raise UserError(setting, spec.text, "hub:OWNER/NAME")
    try:
        datasets = library(spec, setting)
        with quiet():
            found: dict[str, Any] = datasets.load_dataset(name)
    except UserError:
        raise
    # The hub's client raises errors of half a dozen libraries; all of them mean that the set is not to be had.
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        given = f"{spec.place}, which could not be loaded ({reason})"
        raise UserError(setting, given, "a data set that the Hugging Face hub serves") from None
    return {SPLITS.get(split, split): found[split] for split in found}


def read_dataset(parts: Sequence[Dataset], place: str, setting: str) -> Encoded:
    """The rows of one or several splits, in their order."""
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


def library(spec: Spec, setting: str) -> Any:
    """The ``datasets`` package.

    Raises:
        UserError: If it is not installed.
    """
    try:
        import datasets
    except ImportError:
        given = f"{spec.text}, which needs the datasets package"
        raise UserError(setting, given, "parquet files without it", "pip install datasets") from None
    return datasets


@contextmanager
def quiet() -> Iterator[None]:
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
