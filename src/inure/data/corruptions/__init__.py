"""The 15 common corruptions at 5 severities, made from any images, in the manner of Hendrycks and Dietterich (2019).

The table of what exists, ``corrupt`` for a batch and ``corrupted`` for a set.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ...libraries import Tensor, np, torch
from ...noise import mix_integers
from ...settings.errors import UserError, unknown_name
from ..image_set import ImageSet, Lazy
from ..progress import SlowProgress
from .blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from .digital import contrast, elastic_transform, jpeg_compression, pixelate
from .noise import gaussian_noise, impulse_noise, shot_noise
from .weather import brightness, fog, frost, snow

Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
"""From a (C, H, W) float32 image in [0, 1], a severity and a source of randomness; the result may leave [0, 1]."""

GROUPS: dict[str, dict[str, Corruption]] = {
    "noise": {"gaussian_noise": gaussian_noise, "shot_noise": shot_noise, "impulse_noise": impulse_noise},
    "blur": {
        "defocus_blur": defocus_blur,
        "glass_blur": glass_blur,
        "motion_blur": motion_blur,
        "zoom_blur": zoom_blur,
    },
    "weather": {"snow": snow, "frost": frost, "fog": fog, "brightness": brightness},
    "digital": {
        "contrast": contrast,
        "elastic_transform": elastic_transform,
        "pixelate": pixelate,
        "jpeg_compression": jpeg_compression,
    },
}
CORRUPTIONS: dict[str, Corruption] = {name: f for group in GROUPS.values() for name, f in group.items()}
"""Every corruption by name, in ImageNet-C's order."""
SEVERITIES = (1, 2, 3, 4, 5)
_LEAST_SIDE = 8
_CHUNK = 256


def corrupt(images: Tensor, kind: str, severity: int, *, index: Tensor | Sequence[int], seed: int = 0) -> Tensor:
    """The images with one corruption, at the size that they have.

    The randomness of an image is a function of (seed, kind, severity, its index) alone: neither the batch nor the
    order changes a pixel. Parameters and their scaling: ``tables.py``.

    Args:
        images: (B, C, H, W) uint8 with C 1 or 3, H and W at least 8.
        kind: A name in ``CORRUPTIONS``.
        severity: 1 (hardly visible) to 5.
        index: (B,) integers: which image of its set each one is.
        seed: Another one draws everything anew.

    Returns:
        (B, C, H, W) uint8 on the images' device, rounded to the nearest value (the official code rounds down).

    Raises:
        UserError: If kind, severity or images are others than these.

    Paper: Hendrycks, Dietterich. Benchmarking neural network robustness to common corruptions and perturbations.
    ICLR 2019. arXiv:1903.12261.
    """
    refuse_corruption(kind, severity)
    refuse_shape(tuple(images.shape[1:]), "images")
    if images.dtype != torch.uint8:
        raise UserError("images", images.dtype, "uint8 values from 0 to 255")
    assert len(index) == len(images)
    clean = images.cpu().numpy()
    out = torch.empty(images.shape, dtype=torch.uint8)
    stream = zlib.crc32(kind.encode())
    for place, row in enumerate(index):
        rng = np.random.Generator(np.random.PCG64(mix_integers(seed, stream, severity, int(row))))
        dirty = CORRUPTIONS[kind](clean[place].astype(np.float32) / 255, severity, rng)
        out.numpy()[place] = np.rint(255 * np.clip(dirty, 0, 1))
    return out.to(images.device)


def corrupted(images: ImageSet, kind: str, severity: int, *, seed: int = 0, setting: str = "images") -> ImageSet:
    """The same set with every image corrupted: at once if it is in memory, else whenever it is decoded.

    The randomness of an image follows its ``index``, so a subset of the corrupted set is the corrupted subset.

    Args:
        images: Any set of 1 or 3 channels and at least 8 x 8 pixels.
        kind: A name in ``CORRUPTIONS``.
        severity: 1 to 5.
        seed: Another one draws everything anew.
        setting: The key that errors name.

    Returns:
        A set named ``NAME@kind:severity`` whose ``hash`` is a function of the old one, kind, severity and seed.

    Raises:
        UserError: If there is no such corruption, or the images are too small.
    """
    refuse_corruption(kind, severity)
    refuse_shape(images.shape, setting)
    digest = hashlib.sha256(f"{images.hash} {kind} {severity} {seed}".encode()).hexdigest()
    if isinstance(images.pixels, Lazy):
        decoder = CorruptedDecoder(images.pixels.decode, images.pixels.rows, images.index, kind, severity, seed)
        pixels = Lazy(decoder, torch.arange(len(images)))
    else:
        pixels = _corrupt_all(images, images.pixels, kind, severity, seed)
    return replace(images, name=f"{images.name}@{kind}:{severity}", hash=digest, pixels=pixels)


def parse_corruption(text: str, setting: str) -> tuple[str, int]:
    """``KIND:SEVERITY``, as it stands after the ``@`` of a SPEC.

    Raises:
        UserError: If it is anything else; with the nearest names.
    """
    kind, _, level = text.partition(":")
    severity = int(level) if level.isdecimal() else 0
    try:
        refuse_corruption(kind, severity)
    except UserError as error:
        allowed = "@KIND:SEVERITY, a name of `inure list corruptions` and 1 to 5"
        raise UserError(setting, f"@{text}", allowed, error.remedy) from None
    return kind, severity


def refuse_corruption(kind: str, severity: int) -> None:
    """Raise a ``UserError`` if there is no such corruption; with the nearest names."""
    if kind not in CORRUPTIONS:
        raise unknown_name("kind", kind, CORRUPTIONS, "inure list corruptions")
    if severity not in SEVERITIES:
        raise UserError("severity", severity, "1 | 2 | 3 | 4 | 5", f"@{kind}:3")


def refuse_shape(shape: tuple[int, ...], setting: str) -> None:
    """Raise a ``UserError`` at ``setting`` unless (C, H, W) is a shape that can be corrupted."""
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape[1:]) < _LEAST_SIDE:
        raise UserError(setting, f"images of {shape} to corrupt", "1 or 3 channels of at least 8 x 8 pixels")


@dataclass(frozen=True)
class CorruptedDecoder:
    """Decodes and corrupts the images of a lazy set, by their place in it; can be pickled."""

    decode: Callable[[Tensor], Tensor]
    rows: Tensor
    index: Tensor
    kind: str
    severity: int
    seed: int

    def __call__(self, places: Tensor) -> Tensor:
        """The (B, C, H, W) uint8 images at ``places`` ((B,) int64)."""
        clean = self.decode(self.rows[places])
        return corrupt(clean, self.kind, self.severity, index=self.index[places], seed=self.seed)


def _corrupt_all(images: ImageSet, clean: Tensor, kind: str, severity: int, seed: int) -> Tensor:
    pixels = torch.empty_like(clean)
    with SlowProgress(f"corrupting images ({kind})", len(images)) as progress:
        for rows in torch.arange(len(images)).split(_CHUNK):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            pixels[part] = corrupt(clean[part], kind, severity, index=images.index[rows], seed=seed)
            progress.advance(len(rows))
    return pixels
