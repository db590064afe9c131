"""Real data sets of shifted images, in folders of yours: ``imagenet-r:DIR``, ``cifar10-c:DIR@fog:3``, ..."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..settings.errors import UserError, unknown_name
from .corrupted_files import read_cifar10_c, read_imagenet_c
from .cue_conflict import read_conflict
from .encoded import Encoded
from .imagenet_files import read_numbered, read_reassessed, read_subset, read_whole
from .spec import Spec

SHIFTS = {
    "cifar10-c": "CIFAR-10 corrupted, cifar10-c:DIR@fog:3: DIR/fog.npy, DIR/labels.npy",
    "imagenet-c": "ImageNet corrupted, imagenet-c:DIR@fog:3: DIR/[weather/]fog/3/nXXXXXXXX/*.JPEG",
    "imagenet-a": "natural images that nets get wrong, 200 classes: DIR/nXXXXXXXX/*.jpg",
    "imagenet-r": "art, cartoons, toys and other renditions, 200 classes: DIR/nXXXXXXXX/*.jpg",
    "imagenet-sketch": "drawings in black and white: DIR/nXXXXXXXX/*.JPEG",
    "imagenet-v2": "a second test set, collected as the first one was: DIR/0 to DIR/999 with *.jpeg",
    "imagenet-real": "ImageNet's validation images with several right labels: DIR/ILSVRC2012_val_*.JPEG, DIR/real.json",
    "conflict": "shape of one class, texture of another, 16 classes: DIR/cat/cat1-truck2.png",
}
"""What may stand before ``:DIR`` in a SPEC, with the files that are expected there."""

_CORRUPTED: dict[str, Callable[[Path, str, int, str], Encoded]] = {
    "cifar10-c": read_cifar10_c,
    "imagenet-c": read_imagenet_c,
}
_READERS: dict[str, Callable[[Path, str, str], Encoded]] = {
    "imagenet-a": read_subset,
    "imagenet-r": read_subset,
    "imagenet-sketch": read_whole,
    "imagenet-v2": read_numbered,
    "imagenet-real": read_reassessed,
    "conflict": read_conflict,
}


def is_corrupted(place: str) -> bool:
    """Whether ``NAME:DIR`` names a published set of corruptions, in which ``@KIND:SEVERITY`` picks a file or folder."""
    return place.partition(":")[0] in _CORRUPTED and ":" in place


def find_shift(spec: Spec, setting: str) -> Callable[[tuple[str, ...]], Encoded] | None:
    """What reads the set behind ``NAME:DIR`` or ``NAME:DIR@KIND:SEVERITY``; None for any other SPEC.

    Raises:
        UserError: If the folder is not there, or corruption and severity are missing.
    """
    name, _, place = spec.place.partition(":")
    if name not in SHIFTS:
        return None
    folder = _folder(name, place, setting)
    if name in _CORRUPTED:
        read = partial(_CORRUPTED[name], folder, *_kind_and_severity(name, spec, setting), setting)
    else:
        read = partial(_READERS[name], folder, name, setting)
    return lambda splits: read()


def refuse_unknown_prefix(spec: Spec, setting: str) -> None:
    """Where nothing was found: say which names may stand before a colon, if there is one.

    Raises:
        UserError: For a SPEC such as ``imagenet-x:DIR``.
    """
    if found := re.match(r"([A-Za-z][\w-]+):", spec.place):
        names = ["hub", *SHIFTS]
        nearest = unknown_name(setting, found[1], names).remedy
        raise UserError(setting, spec.text, " | ".join(f"{name}:" for name in names), nearest or "inure list shifts")


def _folder(name: str, place: str, setting: str) -> Path:
    folder = Path(place).expanduser()
    if not place or not folder.is_dir():
        raise UserError(setting, f"{name}:{place}, which is no folder", f"{name}:DIR, {SHIFTS[name]}")
    return folder


def _kind_and_severity(name: str, spec: Spec, setting: str) -> tuple[str, int]:
    """What the ``@KIND:SEVERITY`` of a set with files for each of them says."""
    kind, _, severity = (spec.corruption or "").partition(":")
    if not kind or severity not in ("1", "2", "3", "4", "5"):
        allowed = f"{name}:DIR@KIND:SEVERITY, a corruption and a severity from 1 to 5"
        raise UserError(setting, spec.text, allowed, f"{name}:DIR@fog:3")
    return kind, int(severity)
