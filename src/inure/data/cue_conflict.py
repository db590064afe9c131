"""Images with the shape of one class and the texture of another: does a net answer by shape?

Geirhos et al., 2019, arXiv:1811.12231.
"""

from pathlib import Path

from ..settings.errors import UserError
from .encoded import Encoded, shorten
from .imagenet_files import encode_folders, images_by_folder
from .readout import Readout

_OUTPUTS = {
    "airplane": "404",
    "bear": "294-297",
    "bicycle": "444 671",
    "bird": "8 10-16 18-20 22-24 80-83 87-96 98-100 127-133 135-145",
    "boat": "472 554 625 814 914",
    "bottle": "440 720 737 898-899 901 907",
    "car": "436 511 817",
    "cat": "281-286",
    "chair": "423 559 765 857",
    "clock": "409 530 892",
    "dog": "152-191 193-203 205-226 228-241 243-250 252-257 259 261-263 265-268",
    "elephant": "385-386",
    "keyboard": "508 878",
    "knife": "499",
    "oven": "766",
    "truck": "555 569 656 675 717 734 864 867",
}
"""Outputs of a net of ImageNet-1k that mean each class, as the authors chose them; both ends of a range are in it."""


def sixteen_classes() -> Readout:
    """From 1000 classes of ImageNet to the 16 of the stimuli, in the order of their names."""
    return Readout(tuple(_numbers(text) for text in _OUTPUTS.values()), 1000, "conflict")


def read_conflict(root: Path, name: str, setting: str) -> Encoded:
    """16 folders named by the class of the shape, with images such as ``cat/cat1-truck2.png``; label: the shape.

    All are kept, also those whose texture is of the same class: 1,280 in the authors' set. The shape bias that the
    authors report leaves the latter out; this accuracy is not that number.
    """
    folders = images_by_folder(root, setting)
    if list(folders) != list(_OUTPUTS):
        wrong = sorted(set(folders) ^ set(_OUTPUTS))[0]
        given = f"{'no folder' if wrong in _OUTPUTS else 'the folder'} {wrong} in {shorten(root)}"
        raise UserError(setting, given, "16 folders of images: " + " | ".join(_OUTPUTS))
    labels = {shape: k for k, shape in enumerate(_OUTPUTS)}
    return encode_folders(folders, labels, tuple(_OUTPUTS), readout=sixteen_classes())


def _numbers(text: str) -> tuple[int, ...]:
    found: list[int] = []
    for part in text.split():
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)
