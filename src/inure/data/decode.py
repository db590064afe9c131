"""Encoded images into uint8 pixels of one mode and size: all at once if they fit in memory, else on demand."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..libraries import Image, Tensor, np, torch
from ..settings.errors import UserError
from .encoded import Cell, Cells, Encoded
from .image_set import ImageSet, Lazy
from .progress import SlowProgress

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_GREY = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L"}
_COLOUR = {"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
_CHUNK = 256


class BadImageError(Exception):
    """An image that cannot be decoded."""


class _ColourFoundError(Exception):
    """A colour image in a set that was grey so far."""


@dataclass(frozen=True)
class Decoder:
    """Turns rows of ``cells`` into uint8 images of one shape; can be pickled."""

    cells: Cells
    mode: str
    """``RGB`` or ``L``."""
    size: tuple[int, int]
    """(H, W)."""
    resize: bool
    """Whether images of another size are resized (bilinear), or an error."""
    setting: str
    crop: bool = False
    """Whether the shorter side becomes 256/224 of ``size`` (bicubic) and the central square is kept: for 224 pixels
    the usual view of ImageNet's test images. Otherwise the whole image is squeezed into ``size``."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return (3 if self.mode == "RGB" else 1, *self.size)

    @property
    def threads(self) -> int:
        """How many threads pay: for small images Pillow's Python part, which they cannot share, dominates."""
        in_worker = torch.utils.data.get_worker_info() is not None
        small = self.size[0] * self.size[1] < 96 * 96 and not self.resize
        return 1 if in_worker or small else min(16, os.cpu_count() or 1)

    def open(self, row: int) -> Image.Image:
        """The image of a row with its header read, checked for mode and size.

        Raises:
            BadImageError: If it is no image.
            UserError: If it is of another size and is not to be resized.
        """
        image = _open(self.cells[row])
        if self.mode == "L" and image.mode not in _GREY:
            raise _ColourFoundError
        if not self.resize and (image.height, image.width) != self.size:
            here, first = f"{image.width} x {image.height}", f"{self.size[1]} x {self.size[0]}"
            given = f"an image of {here} among {first} ones, in {self.cells.place(row)}"
            raise UserError(self.setting, given, "images of one size", f"model.img_size={max(self.size)}")
        return image

    def pixels(self, row: int) -> np.ndarray:
        """(C, H, W) uint8; raises as ``open`` does."""
        image = self.open(row)
        try:
            image = _converted(image, self.mode)
            if self.crop:
                image = _central_square(image, self.size[0])
            if (image.height, image.width) != self.size:
                height, width = self.size
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            return np.frombuffer(image.tobytes(), np.uint8).reshape(*self.size, -1).transpose(2, 0, 1)
        except Exception as error:
            raise BadImageError(_reason(error)) from None

    def mistake(self, row: int, error: BadImageError) -> UserError:
        """The error for a bad image that is not to be skipped."""
        given = f"a bad image in {self.cells.place(row)}"
        return UserError(self.setting, given, f"images that Pillow decodes ({error})", "data.skip_bad=true")

    def __call__(self, rows: Tensor) -> Tensor:
        """The (B, C, H, W) uint8 images of ``rows``.

        Raises:
            UserError: At the first one that cannot be decoded.
        """
        batch = torch.empty(len(rows), *self.shape, dtype=torch.uint8)
        array = batch.numpy()

        def decode(position: int) -> None:
            row = int(rows[position])
            try:
                array[position] = self.pixels(row)
            except BadImageError as error:
                raise self.mistake(row, error) from None

        if self.threads == 1:
            for position in range(len(rows)):
                decode(position)
            return batch
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(decode, range(len(rows))))
        return batch


def decode_set(
    encoded: Encoded, *, name: str, img_size: int | None, skip_bad: bool, memory_limit: int, setting: str
) -> ImageSet:
    """The image set of an encoded split: in memory up to ``memory_limit`` bytes of pixels, else lazy.

    A set is grey if all its images are, unless ``encoded.colour``. A lazy set is checked for bad headers, modes and
    sizes now; bad pixels behind a good header show up in ``batch``, unless ``skip_bad``, which decodes everything
    once to find them.

    Raises:
        UserError: If an image is bad (and is not to be skipped), or sizes differ without ``img_size``.
    """
    cells = encoded.read(memory_limit)
    decoder = _first_decoder(cells, img_size=img_size or encoded.crop, skip_bad=skip_bad, setting=setting)
    decoder = replace(decoder, mode="RGB" if encoded.colour else decoder.mode, crop=encoded.crop is not None)
    try:
        pixels, good = _decode_all(decoder, skip_bad=skip_bad, memory_limit=memory_limit)
    except _ColourFoundError:
        decoder = replace(decoder, mode="RGB")
        pixels, good = _decode_all(decoder, skip_bad=skip_bad, memory_limit=memory_limit)
    if len(good) == 0:
        raise UserError(setting, f"{name}, in which no image can be decoded", "images that Pillow decodes")
    return ImageSet(
        labels=encoded.labels[good],
        class_names=encoded.class_names,
        shape=decoder.shape,
        index=good,
        hash=encoded.digest(),
        skipped=len(cells) - len(good) + encoded.left_out,
        name=name,
        pixels=Lazy(decoder, good) if pixels is None else pixels,
        readout=encoded.readout,
        accepted=None if encoded.accepted is None else encoded.accepted[good],
    )


def _first_decoder(cells: Cells, *, img_size: int | None, skip_bad: bool, setting: str) -> Decoder:
    """Mode and size as the first good image has them."""
    for row in range(len(cells)):
        try:
            image = _open(cells[row])
        except BadImageError as error:
            if skip_bad:
                continue
            raise Decoder(cells, "L", (1, 1), False, setting).mistake(row, error) from None
        size = (img_size, img_size) if img_size else (image.height, image.width)
        return Decoder(cells, "L" if image.mode in _GREY else "RGB", size, img_size is not None, setting)
    raise UserError(setting, f"{cells.place(0)} and so on, all bad", "images that Pillow decodes")


def _decode_all(decoder: Decoder, *, skip_bad: bool, memory_limit: int) -> tuple[Tensor | None, Tensor]:
    """All pixels (None if they exceed the limit) and the rows of the good images."""
    total = len(decoder.cells)
    fits = total * math.prod(decoder.shape) <= memory_limit
    pixels = torch.empty(total if fits else 0, *decoder.shape, dtype=torch.uint8)
    array = pixels.numpy()

    def visit(row: int) -> None:
        if fits:
            array[row] = decoder.pixels(row)
        elif skip_bad:
            decoder.pixels(row)
        else:
            decoder.open(row)

    good = torch.ones(total, dtype=torch.bool)
    with ThreadPoolExecutor(decoder.threads) as pool, SlowProgress("decoding images", total) as progress:
        chunks = [range(start, min(start + _CHUNK, total)) for start in range(0, total, _CHUNK)]
        for chunk, found in zip(chunks, pool.map(partial(_visit_chunk, visit), chunks), strict=True):
            for row, error in found:
                if not skip_bad:
                    raise decoder.mistake(row, error)
                good[row] = False
            progress.advance(len(chunk))
    rows = good.nonzero().flatten()
    if not fits:
        return None, rows
    return pixels if len(rows) == total else pixels[rows], rows


def _visit_chunk(visit: Callable[[int], None], rows: range) -> list[tuple[int, BadImageError]]:
    bad = []
    for row in rows:
        try:
            visit(row)
        except BadImageError as error:
            bad.append((row, error))
    return bad


def _open(cell: Cell) -> Image.Image:
    try:
        if isinstance(cell, np.ndarray):
            return Image.fromarray(cell)
        if cell is None:
            raise ValueError("no image there")
        data = cell.read_bytes() if isinstance(cell, Path) else cell
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:
        raise BadImageError(_reason(error)) from None
    if image.mode not in _GREY and image.mode not in _COLOUR:
        raise BadImageError(f"pixels of mode {image.mode}")
    return image


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow would clip at 255.
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)


def _central_square(image: Image.Image, size: int) -> Image.Image:
    """``size`` pixels square, out of the image with a shorter side of 256/224 of that."""
    shorter = round(size * 256 / 224)
    least = min(image.width, image.height)
    width, height = shorter * image.width // least, shorter * image.height // least
    left, top = round((width - size) / 2), round((height - size) / 2)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    return image.crop((left, top, left + size, top + size))


def _reason(error: Exception) -> str:
    text = str(error).split("<_io")[0].split("'/")[0].strip()
    return text or type(error).__name__
