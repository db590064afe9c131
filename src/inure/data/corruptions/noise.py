"""Corruptions by noise: Gaussian, shot, impulse."""

from __future__ import annotations

from ...libraries import np
from .tables import Table

_GAUSSIAN = Table((0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38))
"""Standard deviation."""
_SHOT = Table((500, 250, 100, 75, 50), (60, 25, 12, 5, 3))
"""Photons at full brightness."""
_IMPULSE = Table((0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27))
"""Share of the values that are replaced."""


def gaussian_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Normal noise on every value, as in low light."""
    return image + _GAUSSIAN.row(image, severity) * rng.standard_normal(image.shape, np.float32)


def shot_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Poisson noise: light comes in photons, few of them."""
    photons = _SHOT.row(image, severity)
    return rng.poisson(image * photons) / photons


def impulse_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Salt and pepper: some values become 0 or 1, each with one half, in every channel on its own."""
    share = _IMPULSE.row(image, severity)
    draw = rng.random(image.shape, np.float32)
    return np.where(draw < share, draw < share / 2, image)
