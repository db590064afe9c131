"""Corruptions by processing: contrast, elastic transform, pixelation, JPEG."""

from __future__ import annotations

import io

from ...libraries import Image, ndimage, np
from .tables import Table

_CONTRAST = Table((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05))
"""What is left of the distances to the mean."""
_ELASTIC = Table(
    ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
)
"""Strength and smoothness of the displacements, and how far the corners of the affine map move, in sides."""
_PIXELATE = Table((0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25))
"""Pixels that are left along a side."""
_JPEG = Table((80, 65, 58, 50, 40), (25, 18, 15, 10, 7))
"""Quality."""


def contrast(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Less contrast: every channel comes closer to its mean."""
    mean = image.mean((1, 2), keepdims=True)
    return mean + _CONTRAST.row(image, severity) * (image - mean)


def elastic_transform(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A random affine map, and pixels that are pulled along smooth random displacements (one interpolation)."""
    strength, smoothness, corners = _ELASTIC.row(image, severity)
    shape = image.shape[-2:]
    # 224 pixels count as 244 in the official code
    side = min(shape) * (244 / 224 if min(shape) > 64 else 1)
    matrix = _affine(shape, corners * side, rng)
    places = np.stack([*np.indices(shape, np.float64), np.ones(shape)])
    if strength:
        noise = rng.uniform(-1, 1, (2, *shape))
        places[:2] += strength * side * _smooth(noise, smoothness * side)
    places = np.tensordot(matrix, places, 1)
    return np.stack([ndimage.map_coordinates(channel, places, order=1, mode="mirror") for channel in image])


def _affine(shape: tuple[int, int], furthest: float, rng: np.random.Generator) -> np.ndarray:
    """(2, 3): from (row, column, 1) to where the image is read; three points about the centre move at random."""
    third = min(shape) // 3
    before = np.array(shape) // 2 + third * np.array([[1, 1], [-1, 1], [-1, -1]])
    after = before + rng.uniform(-furthest, furthest, (3, 2))
    return np.linalg.solve(np.column_stack([after, np.ones(3)]), before).T


def _smooth(noise: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian filter over (..., H, W) with reflected borders; as a cosine transform, whatever sigma, fast."""
    from scipy.fft import dctn, idctn

    spectrum = np.asarray(dctn(noise, axes=(-2, -1)))
    for axis in (-2, -1):
        size = noise.shape[axis]
        fade = np.exp(-0.5 * (sigma * np.pi * np.arange(size) / size) ** 2)
        spectrum *= fade[:, None] if axis == -2 else fade
    return np.asarray(idctn(spectrum, axes=(-2, -1)))


def pixelate(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Fewer pixels, enlarged again."""
    left = _PIXELATE.row(image, severity)
    height, width = image.shape[-2:]
    few = _picture(image).resize((int(width * left), int(height * left)), Image.Resampling.BOX)
    return _array(few.resize((width, height), Image.Resampling.BOX))


def jpeg_compression(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """JPEG at a low quality."""
    stream = io.BytesIO()
    _picture(image).save(stream, "JPEG", quality=_JPEG.row(image, severity))
    return _array(Image.open(stream))


def _picture(image: np.ndarray) -> Image.Image:
    pixels = np.rint(255 * image).astype(np.uint8)
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _array(picture: Image.Image) -> np.ndarray:
    pixels = np.asarray(picture, np.float32) / 255
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
