"""Corruptions by blur: defocus, frosted glass, motion, zoom."""

from __future__ import annotations

import math
from functools import lru_cache

from ...libraries import ndimage, np
from .resample import smeared, zoomed
from .tables import Table, length_scale

_DEFOCUS = Table(
    ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
    ((3.0, 0.1), (4.0, 0.5), (6.0, 0.5), (8.0, 0.5), (10.0, 0.5)),
)
"""Radius of the disc, and sigma of the Gaussian that softens it, in pixels."""
_GLASS = Table(
    ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
)
"""Sigma and furthest displacement in pixels, and how often pixels are displaced."""
_MOTION = Table(
    ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5)),
    ((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0)),
)
"""Radius and sigma along the line, in pixels."""
_ZOOM = Table(
    ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
)
"""End and step of the zoom factors, which begin at 1."""


def defocus_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A lens out of focus: each point becomes a disc."""
    radius, sigma = _DEFOCUS.row(image, severity)
    # Sigma is there for the pixels' staircase, not for the lens: it does not grow with the image
    kernel = disc(radius * length_scale(image), sigma)
    reach = len(kernel) // 2
    padded = np.pad(image, ((0, 0), (reach, reach), (reach, reach)), mode="reflect")
    size = padded.shape[1:]
    spectrum = np.fft.rfft2(padded) * np.fft.rfft2(kernel, size)
    return np.fft.irfft2(spectrum, size)[:, 2 * reach :, 2 * reach :]


@lru_cache(maxsize=64)
def disc(radius: float, sigma: float) -> np.ndarray:
    """The (2 r + 1, 2 r + 1) kernel of ``defocus_blur``, whose sum is 1.

    A pixel counts by how much of it the disc covers, ``radius + 1/2 - distance`` cut to [0, 1], so that the kernel
    grows steadily with the radius; then a Gaussian.
    """
    reach = math.ceil(radius + 3 * sigma + 0.5)
    axis = np.arange(-reach, reach + 1)
    distance = np.hypot(axis[:, None], axis)
    kernel = ndimage.gaussian_filter(np.clip(radius + 0.5 - distance, 0, 1), sigma, mode="constant")
    return (kernel / kernel.sum()).astype(np.float32)


def glass_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Frosted glass: a Gaussian, pixels that take the value of a random neighbour, a Gaussian."""
    sigma, furthest, times = _GLASS.row(image, severity)
    scale = length_scale(image)
    sigma, furthest = sigma * scale, max(1, round(furthest * scale))
    channels, height, width = image.shape
    flat = ndimage.gaussian_filter(image, (0, sigma, sigma), mode="nearest").reshape(channels, -1)
    for _ in range(times):
        flat = flat[:, _displaced(height, width, furthest, rng)]
    return ndimage.gaussian_filter(flat.reshape(image.shape), (0, sigma, sigma), mode="nearest")


def _displaced(height: int, width: int, furthest: int, rng: np.random.Generator) -> np.ndarray:
    """The flat place that each pixel takes its value from.

    The official loop goes from the last pixel to the first and gives each one the present value of another at
    -furthest to furthest - 1 rows and columns from it. Where that one had its turn before, its value comes from
    elsewhere; these chains are followed here for all pixels at once, in steps of doubled length.
    """
    rows, columns = np.arange(furthest + 1, height - furthest + 1), np.arange(furthest + 1, width - furthest + 1)
    own = (rows[:, None] * width + columns).ravel()
    shift = rng.integers(-furthest, furthest, (2, own.size))
    source = np.arange(height * width)
    source[own] = own + shift[0] * width + shift[1]
    resolved = source <= np.arange(height * width)
    while not resolved.all():
        resolved, source = resolved | resolved[source], np.where(resolved, source, source[source])
    return source


def motion_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A camera that moves, within 45 degrees of the horizontal."""
    radius, sigma = _MOTION.row(image, severity)
    scale = length_scale(image)
    return smeared(image, radius * scale, sigma * scale, rng.uniform(-45, 45))


def zoom_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A camera that moves towards the scene: the mean of the image and its zooms."""
    stop, step = _ZOOM.row(image, severity)
    factors = np.arange(1, stop, step)
    return (image + sum(zoomed(image, factor) for factor in factors)) / (len(factors) + 1)
