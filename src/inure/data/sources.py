"""``load``: from a SPEC such as ``digits`` or ``DIR/cifar10-*.parquet#test`` to an image set."""

from __future__ import annotations

import glob
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..libraries import Tensor
from ..settings.errors import UserError
from .contrast import with_contrast
from .decode import decode_set
from .digits import read_digits
from .encoded import Encoded
from .folders import find_image_folder
from .hub import find_on_hub, read_dataset
from .image_set import ImageSet
from .parquet import read_parquet
from .shards import find_shards
from .shifts import find_shift, is_corrupted, refuse_unknown_prefix
from .spec import ALLOWED, Spec, choose_splits, nearest, parse_spec


@dataclass(frozen=True)
class Source:
    """A data set that was found: its splits, and how to read some of them."""

    spec: Spec
    splits: tuple[str, ...]
    read: Callable[[tuple[str, ...]], Encoded]


def load(
    spec: str,
    split: str | None,
    *,
    img_size: int | None = None,
    skip_bad: bool = False,
    contrast: float = 1.0,
    memory_limit: int = 4 << 30,
    setting: str = "data.source",
) -> ImageSet:
    """The images that a SPEC names.

    Args:
        spec: ``digits``, one parquet file, a folder or glob of parquet files, an image folder, or
            ``hub:OWNER/NAME``; each may end in ``#SPLIT``, which goes before ``split``. Or a name of ``SHIFTS``
            before its folder, as ``imagenet-r:DIR``; these are cropped to ``img_size``, by default 224. ``@fog:3``
            at the end corrupts the images, at the size that they then have (``corruptions``).
        split: ``train``, ``test`` (else ``validation``), ``validation``, or None for everything. A set of one
            split is that split, whatever it is called.
        img_size: Images become squares of so many pixels (bilinear).
        skip_bad: Images that cannot be decoded are left out and counted, instead of an error.
        contrast: Images are shrunk so around mid grey, before they are corrupted (``contrast.py``).
        memory_limit: Bytes of pixels up to which a set is decoded into memory; larger ones stay lazy.
        setting: The key that errors name.

    Raises:
        UserError: If there is no such set or split, or something in it is wrong.
    """
    source = find_source(spec, setting)
    encoded = source.read(choose_splits(source.spec, source.splits, split, setting))
    if split in ("train", "validation") and (encoded.readout is not None or encoded.accepted is not None):
        allowed = "images whose labels are the net's outputs; this is a set to test on"
        raise UserError(setting, spec, allowed, f"inure evaluate RUN --data {spec}")
    images = decode_set(
        encoded, name=spec, img_size=img_size, skip_bad=skip_bad, memory_limit=memory_limit, setting=setting
    )
    images = with_contrast(images, contrast)
    return images if source.spec.corruption is None else _corrupted(images, source.spec.corruption, setting)


def load_labels(spec: str, split: str | None, *, setting: str = "data.source") -> tuple[Tensor, tuple[str, ...]]:
    """The labels and class names of what ``load`` would return (bad images included), without decoding images."""
    source = find_source(spec, setting)
    encoded = source.read(choose_splits(source.spec, source.splits, split, setting))
    return encoded.labels, encoded.class_names


def find_source(text: str, setting: str) -> Source:
    """What there is at a SPEC, before anything is decoded.

    Raises:
        UserError: If nothing is there; names what looks most like it.
    """
    written = parse_spec(text)
    spec = _checked_corruption(written, setting)
    path = Path(spec.place).expanduser()
    if spec.place == "digits":
        return Source(spec, ("train", "test"), read_digits)
    if spec.place.startswith("hub:"):
        return _source(spec, find_on_hub(spec, setting), spec.place, setting)
    if shift := find_shift(written, setting):
        return Source(spec, ("test",), shift)
    if path.is_file() and path.suffix != ".parquet":
        raise UserError(setting, f"{spec.place}, a file that is not parquet", ALLOWED)
    if path.exists() or glob.has_magic(spec.place):
        shards = find_shards(spec, setting)
        if shards:
            return Source(spec, tuple(sorted(shards)), partial(_read_shards, shards, setting))
        if path.is_dir():
            return _source(spec, find_image_folder(spec, setting), spec.place, setting)
    refuse_unknown_prefix(spec, setting)
    raise UserError(setting, f"{text}, which is not there", ALLOWED, nearest(spec.place))


def _checked_corruption(spec: Spec, setting: str) -> Spec:
    """The SPEC, after a mistake in its corruption; without it where it names files, not something to compute."""
    if spec.corruption is None or is_corrupted(spec.place):
        return spec._replace(corruption=None)
    from .corruptions import parse_corruption

    parse_corruption(spec.corruption, setting)
    return spec


def _corrupted(images: ImageSet, corruption: str, setting: str) -> ImageSet:
    from .corruptions import corrupted, parse_corruption

    return replace(corrupted(images, *parse_corruption(corruption, setting), setting=setting), name=images.name)


def _source(spec: Spec, found: dict, place: str, setting: str) -> Source:
    def read(splits: tuple[str, ...]) -> Encoded:
        return read_dataset([found[split] for split in splits], place, setting)

    return Source(spec, tuple(found), read)


def _read_shards(shards: dict[str, list[Path]], setting: str, splits: tuple[str, ...]) -> Encoded:
    return read_parquet([file for split in splits for file in shards[split]], setting)
