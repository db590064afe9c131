"""Random boxes of the images, resized to the whole (Szegedy et al., 2015, arXiv:1409.4842)."""

from __future__ import annotations

import math

from ..libraries import Tensor, torch
from .resample import sampled

_TRIES = 10
_RATIO = 4 / 3


def resized_crop(x: Tensor, low: float, high: float) -> Tensor:
    """Cuts a box out of each image, by draws of its own, and resizes it to the image's size (bilinear).

    The box has ``low`` to ``high`` of the area, drawn uniformly, and a ratio of width to height from 3/4 to 4/3,
    drawn uniformly in its logarithm. Of ten draws the first that fits counts; if none does, it is the largest
    centred box of such a ratio (a square image as a whole).

    Args:
        x: (B, C, H, W) of any type, on any device; the draws are made there and nothing waits for them.
        low: Least share of the area, in (0, 1].
        high: Largest share of the area, in [low, 1].

    Note:
        torchvision's, which cuts before it resizes, sees the file at full size. These boxes are cut out of the
        images as they were decoded, squares of ``model.img_size``, so a small box is blurrier and the ratio is
        that in the square. No box is larger than the image, so none needs a filter against aliasing.
    """
    height, width = x.shape[2:]
    top, left, tall, wide = _boxes(len(x), height, width, low, high, x.device)
    return sampled(x, _places(top, tall, height)[:, :, None], _places(left, wide, width)[:, None, :])


def _boxes(
    count: int, height: int, width: int, low: float, high: float, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(count,) each: top, left, height and width of boxes in whole pixels."""
    area = height * width * torch.empty(_TRIES, count, device=device).uniform_(low, high)
    stretch = torch.empty(_TRIES, count, device=device).uniform_(-math.log(_RATIO), math.log(_RATIO)).exp()
    wide, tall = (area * stretch).sqrt().round(), (area / stretch).sqrt().round()
    fits = (wide >= 1) & (tall >= 1) & (wide <= width) & (tall <= height)
    found, first = fits.any(0), fits.int().argmax(0, keepdim=True)  # of equal ones argmax takes the first
    wide = torch.where(found, wide.gather(0, first)[0], round(min(width, height * _RATIO)))
    tall = torch.where(found, tall.gather(0, first)[0], round(min(height, width * _RATIO)))
    u, v = torch.rand(2, count, device=device)
    top = torch.where(found, ((height - tall + 1) * u).floor(), ((height - tall) / 2).floor())
    left = torch.where(found, ((width - wide + 1) * v).floor(), ((width - wide) / 2).floor())
    # Rounding may lift a draw just below 1 to 1
    return top.minimum(height - tall), left.minimum(width - wide), tall, wide


def _places(start: Tensor, size: Tensor, pixels: int) -> Tensor:
    """(B, pixels) centres of the new pixels in the old image; none looks at what lies outside of the box."""
    start, size = start[:, None], size[:, None]
    places = start + (torch.arange(pixels, device=start.device) + 0.5) * size / pixels
    return places.maximum(start + 0.5).minimum(start + size - 0.5)
