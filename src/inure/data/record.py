"""What a run writes down of its training images, and what it says of them when it begins."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .chosen_rows import FILE, write_rows
from .image_set import ImageSet
from .settings import Data


def record(data: Data, training: ImageSet, validation: ImageSet, folder: Path) -> dict[str, Any]:
    """The entry ``data`` of run.json; writes ``rows.safetensors`` if images were chosen or labels changed.

    ``class_counts`` are the training images of each class, by the labels that training sees; with label noise
    ``true_class_counts`` are those by the true ones.
    """
    found = {
        "source": data.source, "train_examples": len(training), "validation_examples": len(validation),
        "hash": training.hash, "skipped": skipped_images(data, training, validation),
        "class_counts": class_counts(training),
    }  # fmt: skip
    if training.true_labels is not None:
        found["true_class_counts"] = _counts(training.true_labels, training)
        found["changed_labels"] = int((training.labels != training.true_labels).sum())
    if data.long_tail is not None or data.label_noise is not None:
        found["rows"] = FILE
        found["rows_sha256"] = write_rows(folder / FILE, training, None if _apart(data) else validation)
    return found


def remarks(data: Data, training: ImageSet, validation: ImageSet) -> list[str]:
    """What a user should know of these images, a line each."""
    lines, names = [], training.class_names
    if skipped := skipped_images(data, training, validation):
        lines.append(f"warning: {skipped} images could not be decoded and were left out")
    if data.long_tail is not None:
        counts = _counts(training.labels if training.true_labels is None else training.true_labels, training)
        most, least = max(counts), min(counts)
        first, last = (_class(names[counts.index(count)]) for count in (most, least))
        lines.append(f"long tail: {most:,} images of {first} to {least:,} of {last}, {len(training):,} to train on")
    if data.label_noise is not None:
        assert training.true_labels is not None
        share = float((training.labels != training.true_labels).double().mean())
        lines.append(f"label noise: {share:.1%} of the training labels are wrong; validation and test labels are not")
    absent = [name for name, count in zip(names, class_counts(validation), strict=True) if count == 0]
    if data.long_tail is not None and absent:
        shown = ", ".join(map(_class, absent[:3])) + (", ..." if len(absent) > 3 else "")
        lines.append(f"warning: no image to validate on in {len(absent)} of {len(names)} classes ({shown})")
    return lines


def _class(name: str) -> str:
    """A class in a sentence: ``class 9`` where it has no name but its number."""
    return f"class {name}" if name.isdecimal() else name


def class_counts(images: ImageSet) -> list[int]:
    """Images of each class, by the labels that the set has."""
    return _counts(images.labels, images)


def _counts(labels: Tensor, images: ImageSet) -> list[int]:
    return torch.bincount(labels, minlength=images.num_classes).tolist()


def skipped_images(data: Data, training: ImageSet, validation: ImageSet) -> int:
    """How many could not be decoded."""
    # Else both sets were cut from the same files, and count the same.
    return training.skipped + (validation.skipped if _apart(data) else 0)


def _apart(data: Data) -> bool:
    """Whether validation images are files of their own."""
    return isinstance(data.validation, str)
