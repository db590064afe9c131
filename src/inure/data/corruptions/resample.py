"""Linear resampling that several corruptions share: zooms, smears along a line, another size."""

from __future__ import annotations

import math
from functools import lru_cache

from ...libraries import Image, np


def zoomed(image: np.ndarray, factor: float) -> np.ndarray:
    """The image (..., H, W) enlarged about its centre by ``factor`` >= 1 and cut to its old size (bilinear)."""
    return _zoomed_axis(_zoomed_axis(image, factor, -2), factor, -1)


def _zoomed_axis(image: np.ndarray, factor: float, axis: int) -> np.ndarray:
    low, share = _places(image.shape[axis], factor)
    if axis == -2:
        share = share[:, None]
    first, second = image.take(low, axis), image.take(low + 1, axis, mode="clip")
    return first + share * (second - first)


@lru_cache(maxsize=256)
def _places(size: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Where along a side each pixel of the zoom is read: the pixel before, and the share of the next one."""
    middle = (size - 1) / 2
    place = middle + (np.arange(size) - middle) / factor
    low = np.floor(place).astype(np.intp)
    return low, (place - low).astype(np.float32)


def smeared(image: np.ndarray, radius: float, sigma: float, degrees: float) -> np.ndarray:
    """A motion blur of (..., H, W): half a Gaussian along a line from each pixel, as ImageMagick computes it.

    Tap i = 0, 1, ..., 2 ceil(radius) lies i pixels along the line, at the nearest pixel, with weight
    exp(-i^2 / (2 sigma^2)). Beyond the border the edge goes on.
    """
    taps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-(taps**2) / (2 * sigma**2))
    # Taps that 8 bits cannot see only cost time
    taps = taps[weights > 1e-4 * weights.sum()]
    weights = (weights[taps] / weights[taps].sum()).astype(image.dtype)
    angle = math.radians(degrees)
    down = np.ceil(taps * math.sin(angle) - 0.5).astype(int)
    right = np.ceil(taps * math.cos(angle) - 0.5).astype(int)
    reach = int(max(abs(down).max(), abs(right).max()))
    height, width = image.shape[-2:]
    padded = np.pad(image, [(0, 0)] * (image.ndim - 2) + [(reach, reach)] * 2, mode="edge")
    out = np.zeros_like(image)
    for weight, dy, dx in zip(weights, down, right, strict=True):
        top, left = reach + dy, reach + dx
        out += weight * padded[..., top : top + height, left : left + width]
    return out


def resized(layer: np.ndarray, height: int, width: int) -> np.ndarray:
    """A (H, W) float32 layer at another size (bilinear, antialiased)."""
    if layer.shape == (height, width):
        return layer
    picture = Image.fromarray(np.ascontiguousarray(layer, np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
