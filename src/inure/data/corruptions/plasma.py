"""Clouds: the plasma fractal of the diamond-square algorithm."""

from __future__ import annotations

from ...libraries import np


def plasma(size: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """A (size, size) float32 height map from 0 to 1, which can be tiled; ``size`` is a power of two.

    Each round doubles the grid: new points are the mean of their four nearest plus uniform noise, whose range
    shrinks by ``decay`` squared per round (that of the official code does: it multiplies its amplitude by itself).
    """
    heights = np.zeros((1, 1))
    amplitude = 1.0
    while len(heights) < size:
        noise = amplitude * rng.uniform(-1, 1, (3, *heights.shape))
        right, below = np.roll(heights, -1, 1), np.roll(heights, -1, 0)
        centres = (heights + right + below + np.roll(below, -1, 1)) / 4 + noise[0]
        finer = np.empty((2 * len(heights), 2 * len(heights)))
        finer[::2, ::2] = heights
        finer[1::2, 1::2] = centres
        finer[::2, 1::2] = (heights + right + centres + np.roll(centres, 1, 0)) / 4 + noise[1]
        finer[1::2, ::2] = (heights + below + centres + np.roll(centres, 1, 1)) / 4 + noise[2]
        heights, amplitude = finer, amplitude / decay**2
    heights -= heights.min()
    return (heights / heights.max()).astype(np.float32)
