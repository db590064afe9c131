"""ImageNet-1k and the sets made in its image: the order of its classes, and folders of files for each class."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

from ..libraries import Tensor, torch
from ..settings.errors import UserError
from .encoded import Cells, Encoded, FileCells, hash_cells, shorten
from .readout import Readout

SIZE = 224
"""Pixels of the crop where no other size is asked for."""
_IMAGES = {".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff", ".gif"}
_VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+$")


@lru_cache(maxsize=1)
def imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The WordNet ids of the 1000 classes in the order of a net's outputs, and their names, from timm."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return tuple(info.label_names()), tuple(info.label_descriptions())


def read_subset(root: Path, name: str, setting: str) -> Encoded:
    """200 folders named by WordNet ids; a net of 1000 classes answers through a mask of the others."""
    folders = _by_wnid(root, 200, setting)
    wnids, names = imagenet_classes()
    outputs = [wnids.index(wnid) for wnid in folders]
    readout = Readout(tuple((output,) for output in outputs), len(wnids), name)
    labels = {wnid: k for k, wnid in enumerate(folders)}
    return encode_folders(folders, labels, [names[output] for output in outputs], readout=readout, crop=SIZE)


def read_whole(root: Path, name: str, setting: str) -> Encoded:
    """1000 folders named by WordNet ids."""
    return read_wnid_folders(root, setting, crop=SIZE)


def read_numbered(root: Path, name: str, setting: str) -> Encoded:
    """1000 folders named by the number of the class: 0, 1, ... 999, whose order as text is another one."""
    _, names = imagenet_classes()
    folders = images_by_folder(root, setting)
    wanted = {str(k): k for k in range(len(names))}
    _refuse_folders(folders, set(wanted), 1000, "folders 0 to 999 of images", root, setting)
    ordered = {number: folders[number] for number in wanted}
    return encode_folders(ordered, wanted, names, crop=SIZE)


def read_reassessed(root: Path, name: str, setting: str) -> Encoded:
    """Validation images of ImageNet with the right classes of each, of which ``labels`` holds the first.

    Images without a right class are left out and counted.
    """
    lists = _read_lists(root / "real.json", setting)
    files: dict[int, Path] = {}
    for file in sorted([*root.glob("ILSVRC2012_val_*"), *root.glob("*/ILSVRC2012_val_*")]):
        if found := _VALIDATION.match(file.name):
            files[int(found[1])] = file
    if set(files) != set(range(1, len(lists) + 1)):
        given = f"{len(files)} images for the {len(lists)} lists of {shorten(root / 'real.json')}"
        allowed = f"ILSVRC2012_val_00000001.JPEG to ILSVRC2012_val_{len(lists):08d}.JPEG"
        raise UserError(setting, given, allowed + ", flat or in folders")
    kept = [number for number in sorted(files) if lists[number - 1]]
    _, names = imagenet_classes()
    accepted = torch.zeros(len(kept), len(names), dtype=torch.bool)
    for row, number in enumerate(kept):
        accepted[row, lists[number - 1]] = True
    cells = FileCells([files[number] for number in kept])
    return Encoded(
        labels=torch.tensor([lists[number - 1][0] for number in kept]),
        class_names=names,
        read=lambda memory_limit: cells,
        digest=partial(_hash_with_accepted, cells, accepted),
        accepted=accepted,
        left_out=len(files) - len(kept),
        colour=True,
        crop=SIZE,
    )


def read_wnid_folders(root: Path, setting: str, crop: int | None) -> Encoded:
    """1000 folders named by WordNet ids, their images cropped or taken as they are."""
    folders = _by_wnid(root, 1000, setting)
    wnids, names = imagenet_classes()
    return encode_folders(folders, {wnid: k for k, wnid in enumerate(wnids)}, names, crop=crop)


def images_by_folder(root: Path, setting: str) -> dict[str, list[Path]]:
    """The images in each subfolder, both in the order of their names; empty folders are not there.

    Raises:
        UserError: If ``root`` is no folder.
    """
    if not root.is_dir():
        raise UserError(setting, f"{root}, which is not there", "a folder")
    found = {}
    for folder in sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _IMAGES)
        if files:
            found[folder.name] = files
    return found


def encode_folders(
    folders: Mapping[str, Sequence[Path]],
    labels: Mapping[str, int],
    names: Sequence[str],
    *,
    readout: Readout | None = None,
    crop: int | None = None,
) -> Encoded:
    """Colour images with the label of the folder that they are in."""
    cells = FileCells([file for files in folders.values() for file in files])
    column = torch.tensor([labels[folder] for folder, files in folders.items() for _ in files])
    return Encoded(
        labels=column,
        class_names=tuple(names),
        read=lambda memory_limit: cells,
        digest=partial(hash_cells, cells, column),
        readout=readout,
        colour=True,
        crop=crop,
    )


def _by_wnid(root: Path, wanted: int, setting: str) -> dict[str, list[Path]]:
    folders = images_by_folder(root, setting)
    what = f"{wanted} folders of images named by WordNet ids of ImageNet-1k, such as n01443537"
    _refuse_folders(folders, set(imagenet_classes()[0]), wanted, what, root, setting)
    return folders


def _refuse_folders(
    folders: Mapping[str, object], known: set[str], wanted: int, allowed: str, root: Path, setting: str
) -> None:
    strange = [folder for folder in folders if folder not in known]
    if strange:
        raise UserError(setting, f"the folder {strange[0]} in {shorten(root)}", allowed)
    # Of an incomplete copy the accuracy would look like that of the set; a mask of fewer classes even raises it.
    if len(folders) != wanted:
        raise UserError(setting, f"{len(folders)} such folders in {shorten(root)}", allowed)


def _read_lists(path: Path, setting: str) -> list[list[int]]:
    allowed = "real.json beside the images: a list of the right classes (0 to 999) for each of them"
    try:
        lists = json.loads(path.read_text())
    except (OSError, ValueError):
        raise UserError(setting, f"{shorten(path)}, which is not there or no JSON", allowed) from None
    whole = isinstance(lists, list) and all(isinstance(classes, list) for classes in lists)
    if not whole or not all(isinstance(k, int) and 0 <= k < 1000 for classes in lists for k in classes):
        raise UserError(setting, f"{shorten(path)} of another form", allowed)
    if not any(lists):
        raise UserError(setting, f"{shorten(path)} without a right class", allowed)
    return lists


def _hash_with_accepted(cells: Cells, accepted: Tensor) -> str:
    images = hash_cells(cells, accepted.nonzero())
    return hashlib.sha256(images.encode() + str(tuple(accepted.shape)).encode()).hexdigest()
