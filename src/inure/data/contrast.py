"""Less contrast: images shrunk around mid grey, so that a ball around them stays inside [0, 1]."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..libraries import Tensor, np, torch
from .image_set import ImageSet, Lazy


def with_contrast(images: ImageSet, contrast: float) -> ImageSet:
    """The same set at x = 0.5 + contrast (x - 0.5), each pixel rounded to the nearest of the 256 values (half to even).

    Args:
        images: Any set.
        contrast: In (0, 1]; at 1 the set is returned as it is.

    Returns:
        A set of the same name whose ``hash`` is a function of the old one and ``contrast``.
    """
    if contrast == 1:
        return images
    assert 0 < contrast < 1
    shrink = Shrink(contrast)
    if isinstance(images.pixels, Lazy):
        pixels: Tensor | Lazy = Lazy(ShrinkingDecoder(images.pixels.decode, shrink), images.pixels.rows)
    else:
        pixels = shrink(images.pixels)
    digest = hashlib.sha256(f"{images.hash} contrast {contrast!r}".encode()).hexdigest()
    return replace(images, pixels=pixels, hash=digest)


@dataclass(frozen=True)
class Shrink:
    """uint8 images of any shape to uint8 images of less contrast."""

    contrast: float

    def __call__(self, pixels: Tensor) -> Tensor:
        """The same shape, on the CPU."""
        values = np.rint(127.5 + self.contrast * (np.arange(256) - 127.5)).astype(np.uint8)
        return torch.from_numpy(values[pixels.cpu().numpy()])


@dataclass(frozen=True)
class ShrinkingDecoder:
    """Decodes, then shrinks; can be pickled, for the workers of a loader."""

    decode: Callable[[Tensor], Tensor]
    shrink: Shrink

    def __call__(self, rows: Tensor) -> Tensor:
        """The (B, C, H, W) uint8 images of ``rows``."""
        return self.shrink(self.decode(rows))
