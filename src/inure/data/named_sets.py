"""Sets of images by name, each loaded when its turn comes: the corruptions of a set, and what ``--shift`` names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ..libraries import Tensor, torch
from ..settings.errors import UserError
from .corruptions import CORRUPTIONS, SEVERITIES, corrupted, refuse_shape
from .image_set import ImageSet, Lazy
from .shifts import is_corrupted
from .sources import load, load_labels
from .spec import parse_spec

_EVERY = "@*"


@dataclass(frozen=True)
class NamedSet:
    """A set that may not be loaded yet."""

    name: str
    """Its SPEC."""
    base: str
    """The SPEC without the corruption: sets of one base are the same images."""
    corruption: str | None
    severity: int | None
    load: Callable[[], ImageSet]
    check: Callable[[], object] = lambda: None
    """Raises what can be known to be wrong before any image is decoded."""


def find_sets(
    specs: Sequence[str], *, img_size: int | None, examples: int | None, contrast: float = 1.0, setting: str = "--shift"
) -> list[NamedSet]:
    """The sets that SPECs name; ``SPEC@*`` is every corruption of SPEC at every severity.

    Args:
        specs: As for ``load``; without ``#SPLIT`` the test images.
        img_size: Images become squares of so many pixels.
        examples: Only the first so many of each set.
        contrast: As for ``load``.
        setting: The key that errors name.

    Raises:
        UserError: If there is no such set, or a set is named twice.
    """
    found: list[NamedSet] = []
    for spec in specs:
        place = spec.removesuffix(_EVERY)
        if place == spec:
            found.append(_written(spec, img_size, examples, contrast, setting))
        elif is_corrupted(place):  # a file or folder for each
            found += [
                _written(f"{place}@{kind}:{severity}", img_size, examples, contrast, setting)
                for kind, severity in _cells()
            ]
        else:
            images = load(place, "test", img_size=img_size, contrast=contrast, setting=setting).head(examples)
            found += corruptions_of(images, setting)
    names = [part.name for part in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(setting, f"{twice} twice", "every set once")
    return found


def corruptions_of(images: ImageSet, setting: str = "--data") -> list[NamedSet]:
    """The 15 corruptions at 5 severities of a set; images are corrupted when they are asked for, once.

    Raises:
        UserError: If they are too small for it.
    """
    refuse_shape(images.shape, setting)
    return [
        NamedSet(
            f"{images.name}@{kind}:{severity}", images.name, kind, severity, partial(_on_demand, images, kind, severity)
        )
        for kind, severity in _cells()
    ]


def _cells() -> list[tuple[str, int]]:
    return [(kind, severity) for kind in CORRUPTIONS for severity in SEVERITIES]


def _written(spec: str, img_size: int | None, examples: int | None, contrast: float, setting: str) -> NamedSet:
    parsed = parse_spec(spec)
    kind = severity = None
    base = spec
    if parsed.corruption is not None:
        kind, _, level = parsed.corruption.partition(":")
        severity = int(level) if level.isdecimal() else None
        base = parsed.place if parsed.split is None else f"{parsed.place}#{parsed.split}"

    def read() -> ImageSet:
        return load(spec, "test", img_size=img_size, contrast=contrast, setting=setting).head(examples)

    return NamedSet(spec, base, kind, severity, read, partial(load_labels, spec, "test", setting=setting))


def _on_demand(images: ImageSet, kind: str, severity: int) -> ImageSet:
    """As ``corrupted``, without its work until an image is needed; images in memory stay there corrupted, too."""
    if not images.in_memory:
        return corrupted(images, kind, severity)
    rows = torch.arange(len(images))
    found = corrupted(replace(images, pixels=Lazy(images.batch, rows)), kind, severity)
    assert isinstance(found.pixels, Lazy)
    return replace(found, pixels=Lazy(_Remembered(found.pixels.decode, len(images), images.shape), rows))


class _Remembered:
    """Decodes every image once."""

    def __init__(self, decode: Callable[[Tensor], Tensor], size: int, shape: tuple[int, int, int]) -> None:
        self._decode = decode
        self._pixels = torch.empty(size, *shape, dtype=torch.uint8)
        self._known = torch.zeros(size, dtype=torch.bool)

    def __call__(self, rows: Tensor) -> Tensor:
        missing = rows[~self._known[rows]].unique()
        if len(missing):
            self._pixels[missing] = self._decode(missing).cpu()
            self._known[missing] = True
        return self._pixels[rows]
