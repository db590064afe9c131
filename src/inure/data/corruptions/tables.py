"""Which published parameters hold for an image, and how their lengths in pixels are scaled to its size.

The values beside each corruption are those of the generators of CIFAR-10-C and ImageNet-C that Hendrycks and
Dietterich released (hendrycks/robustness, read there). The size of an image is its shorter side.

- Up to 64 pixels the CIFAR-10-C table holds, made for 32 pixels; above, the ImageNet-C table, made for 224.
- Lengths in pixels (radii, displacements, the size of flakes) are multiplied by size / 32 or size / 224. At up to 64
  pixels never by less than 1: under a pixel they would leave an image of 8 x 8 as it is.
- Lengths that the generators give as shares of the side (elastic) stay shares. Quantities without a length
  (standard deviations, qualities, the ratio of pixelate) are the table's, at every size.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from ...libraries import np

_CIFAR_SIZE, _IMAGENET_SIZE, _LARGEST_SMALL = 32, 224, 64
_Row = TypeVar("_Row")


class Table(NamedTuple, Generic[_Row]):
    """The parameters of severities 1 to 5 of a corruption."""

    cifar: tuple[_Row, ...]
    imagenet: tuple[_Row, ...]

    def row(self, image: np.ndarray, severity: int) -> _Row:
        """The parameters for an image (..., H, W)."""
        return (self.cifar if is_small(image) else self.imagenet)[severity - 1]


def is_small(image: np.ndarray) -> bool:
    """Whether the CIFAR-10-C table holds for an image (..., H, W)."""
    return min(image.shape[-2:]) <= _LARGEST_SMALL


def length_scale(image: np.ndarray) -> float:
    """What the table's lengths in pixels are multiplied by for an image (..., H, W)."""
    size = min(image.shape[-2:])
    return max(1.0, size / _CIFAR_SIZE) if is_small(image) else size / _IMAGENET_SIZE


def table_shape(image: np.ndarray) -> tuple[int, int]:
    """(H, W) of an image (..., H, W) at the size of its table, at which layers such as snow are drawn."""
    scale = length_scale(image)
    height, width = image.shape[-2:]
    return round(height / scale), round(width / scale)
