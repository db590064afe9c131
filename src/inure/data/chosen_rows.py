"""Which images a run was trained on, in a file of its run directory: ``rows.safetensors``.

Written where the recipe chooses or changes something (a long tail, label noise), so that another run can take the same
images, and anyone can see which labels were wrong.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError

from ..libraries import Tensor, torch
from ..machine import files
from ..settings.errors import UserError
from .image_set import ImageSet

FILE = "rows.safetensors"


def write_rows(path: Path, training: ImageSet, held_out: ImageSet | None) -> str:
    """Write rows and labels; returns their sha256 (hex).

    ``rows`` and ``labels`` are the rows of the training split that are trained on and their classes; with label noise
    ``given_labels`` are those that training sees; ``held_out`` and ``held_out_labels`` the same of the validation
    images, where they come from the training split.
    """
    from safetensors.torch import save

    true = training.true_labels
    tensors = {"rows": training.index, "labels": training.labels if true is None else true}
    if true is not None:
        tensors["given_labels"] = training.labels
    if held_out is not None:
        tensors |= {"held_out": held_out.index, "held_out_labels": held_out.labels}
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().astype("<i8").tobytes())
    about = {
        "source": training.name,
        "source_hash": training.hash,
        "class_names": json.dumps(training.class_names),
        "sha256": digest.hexdigest(),
    }
    files.write_bytes(path, save({name: value.contiguous() for name, value in tensors.items()}, about))
    return digest.hexdigest()


def read_rows(place: str, setting: str) -> tuple[Tensor, Tensor | None]:
    """All rows of a file, trained on and held out, and their labels; None where the file is a plain list.

    Args:
        place: A run directory, a file that ``write_rows`` wrote, or a .json file with a list of whole numbers.
        setting: The key that errors name.

    Raises:
        UserError: If it is none of these, or a row is there twice.
    """
    path = Path(place).expanduser()
    path = path / FILE if path.is_dir() else path
    try:
        rows, labels = _read_json(path) if path.suffix == ".json" else _read_tensors(path)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        allowed = f"a run that has {FILE}, such a file, or a .json list of rows"
        reason = "which is not there" if isinstance(error, FileNotFoundError) else f"unreadable ({error})"
        raise UserError(setting, f"{path}, {reason}", allowed) from None
    if len(rows) == 0 or len(rows.unique()) < len(rows):
        raise UserError(setting, f"{path} with {'no row' if len(rows) == 0 else 'a row twice'}", "rows, each once")
    return rows, labels


def _read_json(path: Path) -> tuple[Tensor, None]:
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list) or not all(type(row) is int for row in rows):
        raise ValueError("no list of whole numbers")
    return torch.tensor(rows, dtype=torch.int64), None


def _read_tensors(path: Path) -> tuple[Tensor, Tensor]:
    from safetensors.torch import load_file

    tensors = load_file(path)
    parts = [("rows", "labels"), *([("held_out", "held_out_labels")] if "held_out" in tensors else [])]
    return torch.cat([tensors[rows] for rows, _ in parts]), torch.cat([tensors[labels] for _, labels in parts])
