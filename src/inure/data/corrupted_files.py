"""CIFAR-10-C and ImageNet-C as their authors publish them: a file or a folder for each corruption and severity.

Hendrycks, Dietterich, 2019, arXiv:1903.12261.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..libraries import np, torch
from ..settings.errors import UserError, unknown_name
from .encoded import ArrayCells, Encoded, hash_cells, shorten
from .imagenet_files import read_wnid_folders

BLOCK = 10_000
"""Images of one severity in a file of CIFAR-10-C."""
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def read_cifar10_c(root: Path, kind: str, severity: int, setting: str) -> Encoded:
    """10,000 images: those of one severity in ``KIND.npy``, which stays on disk, with their rows of ``labels.npy``."""
    kinds = sorted(file.stem for file in root.glob("*.npy") if file.stem != "labels")
    if not kinds:
        raise UserError(setting, f"{root} without KIND.npy", "a folder with fog.npy, ... and labels.npy")
    if kind not in kinds:
        raise unknown_name(setting, kind, kinds, f"the .npy files of {shorten(root)}")
    rows = slice((severity - 1) * BLOCK, severity * BLOCK)
    images = _array(root / f"{kind}.npy", "u", (5 * BLOCK, 32, 32, 3), setting)[rows]
    column = _array(root / "labels.npy", "iu", (5 * BLOCK,), setting)[rows]
    labels = torch.from_numpy(column.astype(np.int64))
    if labels.min() < 0 or labels.max() >= len(_CIFAR10):
        raise UserError(setting, f"labels {labels.min()} to {labels.max()} in labels.npy", "0 to 9")
    cells = ArrayCells(images, f"severity {severity} of {kind}.npy")
    return Encoded(
        labels=labels,
        class_names=_CIFAR10,
        read=lambda memory_limit: cells,
        digest=partial(hash_cells, cells, labels),
        colour=True,
    )


def read_imagenet_c(root: Path, kind: str, severity: int, setting: str) -> Encoded:
    """``[GROUP/]KIND/SEVERITY/nXXXXXXXX/*.JPEG``, images that are crops of 224 pixels already."""
    if not root.is_dir():
        raise UserError(setting, f"{root}, which is not there", "a folder")
    places = [root, *(entry for entry in sorted(root.iterdir()) if entry.is_dir())]
    # A corruption is a folder with numbered folders in it; groups, such as blur, hold corruptions.
    kinds = {entry.name: entry for place in reversed(places) for entry in _folders(place) if _has_severities(entry)}
    if not kinds:
        allowed = "a folder with fog/3/nXXXXXXXX/*.JPEG, with or without a folder such as weather above fog"
        raise UserError(setting, f"{root} without such folders", allowed)
    if kind not in kinds:
        raise unknown_name(setting, kind, sorted(kinds), f"the folders of {shorten(root)}")
    return read_wnid_folders(kinds[kind] / str(severity), setting, crop=None)


def _folders(place: Path) -> list[Path]:
    return [entry for entry in place.iterdir() if entry.is_dir()]


def _has_severities(folder: Path) -> bool:
    return any((folder / str(severity)).is_dir() for severity in range(1, 6))


def _array(path: Path, kinds: str, shape: tuple[int, ...], setting: str) -> np.ndarray:
    allowed = f"an array {shape} of {'uint8' if kinds == 'u' else 'whole numbers'}"
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = "which is not there" if isinstance(error, FileNotFoundError) else "which is no whole array"
        raise UserError(setting, f"{shorten(path)}, {reason}", allowed) from None
    if array.shape != shape or array.dtype.kind not in kinds or (kinds == "u" and array.dtype != np.uint8):
        raise UserError(setting, f"{shorten(path)} of {array.dtype} {array.shape}", allowed)
    return array
