"""Corruptions by weather: snow, frost, fog, brightness."""

from __future__ import annotations

from ...libraries import Image, np
from .frost import TEXTURES, frost_texture
from .plasma import plasma
from .resample import resized, smeared, zoomed
from .tables import Table, is_small, table_shape

_SNOW = Table(
    (
        (0.1, 0.2, 1.0, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    (
        (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
)
"""Mean and deviation of the noise, its zoom, the least value that is a flake, radius and sigma of the fall, and the
share of the image that is not whitened."""
_FROST = Table(
    ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
)
"""Weights of image and frost."""
_FOG = Table(
    ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75)),
    ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
)
"""Thickness, and how fast the clouds' detail fades."""
_BRIGHTNESS = Table((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5))
"""What is added to the value of HSV."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def snow(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Flakes that fall, and a whiter scene."""
    mean, deviation, zoom, least, radius, sigma, kept = _SNOW.row(image, severity)
    flakes = zoomed(rng.normal(mean, deviation, table_shape(image)).astype(np.float32), zoom)
    flakes = smeared(np.where(flakes < least, 0, np.clip(flakes, 0, 1)), radius, sigma, rng.uniform(-135, -45))
    flakes = resized(flakes, *image.shape[-2:])
    whiter = np.maximum(image, 1.5 * _grey(image) + 0.5)
    return kept * image + (1 - kept) * whiter + flakes + flakes[::-1, ::-1]


def frost(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Ice on the window: the image plus a piece of drawn frost."""
    of_image, of_frost = _FROST.row(image, severity)
    texture = frost_texture(int(rng.integers(TEXTURES)))
    # The CIFAR-10-C generator shrinks its photographs to a fifth
    sides = np.array(table_shape(image)) * (5 if is_small(image) else 1)
    for axis, side in enumerate(sides):
        start = rng.integers(texture.shape[axis])
        texture = texture.take(np.arange(start, start + side), axis, mode="wrap")
    height, width = image.shape[-2:]
    pane = np.asarray(Image.fromarray(texture).resize((width, height), Image.Resampling.BILINEAR), np.float32)
    pane = pane.transpose(2, 0, 1) / 255
    return of_image * image + of_frost * (pane if len(image) == 3 else _grey(pane))


def fog(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Clouds of a plasma fractal, at the brightness that the image had."""
    thickness, decay = _FOG.row(image, severity)
    clouds = plasma(32, decay, rng) if is_small(image) else plasma(256, decay, rng)[:224, :224]
    height, width = image.shape[-2:]
    longest = max(height, width)
    clouds = resized(clouds, longest, longest)[:height, :width]
    brightest = image.max()
    return (image + thickness * clouds) * brightest / (brightest + thickness)


def brightness(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """More light: the value of HSV grows, hue and saturation stay."""
    value = image.max(0)
    brighter = np.minimum(value + _BRIGHTNESS.row(image, severity), 1)
    # Colours keep their ratios; black has none and becomes grey
    return np.where(value > 0, image * (brighter / np.maximum(value, 1e-6)), brighter)


def _grey(image: np.ndarray) -> np.ndarray:
    """(1, H, W) luma of a colour image; a grey one as it is."""
    return image if len(image) == 1 else np.tensordot(_LUMA, image, 1)[None]
