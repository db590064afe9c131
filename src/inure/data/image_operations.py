"""The 15 operations of RandAugment on batches of uint8 images, with a strength for each image.

Each takes (B, C, H, W) uint8 images, C of 1 or 3, and (B,) float strengths, and returns images of the same shape; the
results are Pillow's to one grey level (``ImageOps``, ``ImageEnhance``, ``Image.transform``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..libraries import F, Tensor, torch
from .resample import sampled

_OUTSIDE = 128


def auto_contrast(x: Tensor, _: Tensor) -> Tensor:
    """Stretches each channel linearly over [0, 255]."""
    darkest, brightest = x.amin((2, 3), keepdim=True).int(), x.amax((2, 3), keepdim=True).int()
    span = brightest - darkest
    stretched = (x.int() - darkest) * 255 // span.clamp_min(1)
    return torch.where(span > 0, stretched, x).to(x.dtype)


def equalize(x: Tensor, _: Tensor) -> Tensor:
    """Maps the grey levels of each channel so that all are about equally frequent."""
    levels = x.flatten(2).long()
    counts = torch.zeros(*levels.shape[:2], 256, dtype=torch.int64, device=x.device)
    counts.scatter_add_(2, levels, torch.ones_like(levels))
    brightest = levels.amax(2, keepdim=True)
    step = (levels.shape[2] - counts.gather(2, brightest)) // 255
    below = counts.cumsum(2) - counts
    table = ((below + step // 2) // step.clamp_min(1)).clamp_max(255)
    table = torch.where(step > 0, table, torch.arange(256, device=x.device))
    return table.gather(2, levels).view_as(x).to(x.dtype)


def invert(x: Tensor, _: Tensor) -> Tensor:
    """255 - x."""
    return 255 - x


def posterize(x: Tensor, bits: Tensor) -> Tensor:
    """Keeps the highest ``bits`` of each pixel."""
    dropped = 8 - _each(bits).int()
    return (x.int() >> dropped << dropped).to(x.dtype)


def solarize(x: Tensor, threshold: Tensor) -> Tensor:
    """Inverts the pixels at or above ``threshold``."""
    return torch.where(x < _each(threshold), x, 255 - x)


def solarize_add(x: Tensor, amount: Tensor) -> Tensor:
    """Adds ``amount``, at most 128, to the pixels below 128: they stay in range."""
    return torch.where(x < 128, x + _each(amount).to(x.dtype), x)


def color(x: Tensor, factor: Tensor) -> Tensor:
    """Away from the grey image (factor above 1) or towards it; grey images stay as they are."""
    return _blend(_grey(x), x, factor)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Away from the mean grey level (factor above 1) or towards it."""
    grey = _grey(x).long()
    pixels = grey[0].numel()
    mean = (2 * grey.sum((1, 2, 3), keepdim=True) + pixels) // (2 * pixels)  # to the nearest whole number
    return _blend(mean, x, factor)


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Away from black (factor above 1) or towards it."""
    return _blend(torch.zeros_like(x), x, factor)


def sharpness(x: Tensor, factor: Tensor) -> Tensor:
    """Away from a smoothed image (factor above 1) or towards it; pixels of the border stay as they are."""
    smooth = x.float()
    if min(x.shape[2:]) >= 3:
        # 3 x 3 weights of 1 and in the middle 5
        sums = F.avg_pool2d(smooth, 3, stride=1, divisor_override=1) + 4 * smooth[..., 1:-1, 1:-1]
        smooth = smooth.clone()
        smooth[..., 1:-1, 1:-1] = (sums / 13).round()
    return _blend(smooth, x, factor)


def rotate(x: Tensor, degrees: Tensor) -> Tensor:
    """Turns by ``degrees`` counter-clockwise around the middle."""
    rows, columns = _centres(x)
    middle, centre = x.shape[2] / 2, x.shape[3] / 2
    down, right = rows - middle, columns - centre
    angle = torch.deg2rad(degrees).view(-1, 1, 1)
    sine, cosine = angle.sin(), angle.cos()
    return _from(x, middle + sine * right + cosine * down, centre + cosine * right - sine * down)


def shear_x(x: Tensor, factor: Tensor) -> Tensor:
    """Row r shows what was ``factor * r`` pixels further right."""
    rows, columns = _centres(x)
    return _from(x, rows, columns + factor.view(-1, 1, 1) * rows)


def shear_y(x: Tensor, factor: Tensor) -> Tensor:
    """Column c shows what was ``factor * c`` pixels further down."""
    rows, columns = _centres(x)
    return _from(x, rows + factor.view(-1, 1, 1) * columns, columns)


def translate_x(x: Tensor, share: Tensor) -> Tensor:
    """Shows what was ``share`` of the width further right."""
    rows, columns = _centres(x)
    return _from(x, rows, columns + share.view(-1, 1, 1) * x.shape[3])


def translate_y(x: Tensor, share: Tensor) -> Tensor:
    """Shows what was ``share`` of the height further down."""
    rows, columns = _centres(x)
    return _from(x, rows + share.view(-1, 1, 1) * x.shape[2], columns)


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _blend(other: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    """``other + factor * (x - other)``, clamped and rounded down as Pillow does."""
    base = other.float()
    return (base + _each(factor) * (x.float() - base)).clamp_(0, 255).to(x.dtype)


def _grey(x: Tensor) -> Tensor:
    """(B, 1, H, W) luminance of Rec. 601 in Pillow's whole numbers."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x.int().split(1, dim=1)
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16


def _centres(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (1, H, 1) and columns (1, 1, W) of the middles of pixels."""
    rows, columns = (torch.arange(size, device=x.device) + 0.5 for size in x.shape[2:])
    return rows[None, :, None], columns[None, None, :]


def _from(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Every pixel from another place of its image; grey where that lies outside."""
    height, width = x.shape[2:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return torch.where(inside[:, None], sampled(x, rows, columns), _OUTSIDE)


class Operation(NamedTuple):
    """``strength(level, sign)``: what ``apply`` takes, from (B,) levels in [0, 1] and signs of 1 and -1."""

    apply: Callable[[Tensor, Tensor], Tensor]
    strength: Callable[[Tensor, Tensor], Tensor]


def _none(level: Tensor, sign: Tensor) -> Tensor:
    return torch.zeros_like(level)


def _factor(level: Tensor, sign: Tensor) -> Tensor:
    return 1 + 0.9 * level * sign


def _shear(level: Tensor, sign: Tensor) -> Tensor:
    return 0.3 * level * sign


def _shift(level: Tensor, sign: Tensor) -> Tensor:
    return 0.45 * level * sign


OPERATIONS = {
    "auto_contrast": Operation(auto_contrast, _none),
    "equalize": Operation(equalize, _none),
    "invert": Operation(invert, _none),
    "rotate": Operation(rotate, lambda level, sign: 30 * level * sign),
    "posterize": Operation(posterize, lambda level, sign: 4 - (4 * level).floor()),
    "solarize": Operation(solarize, lambda level, sign: 256 - (256 * level).floor()),
    "solarize_add": Operation(solarize_add, lambda level, sign: (110 * level).floor()),
    "color": Operation(color, _factor),
    "contrast": Operation(contrast, _factor),
    "brightness": Operation(brightness, _factor),
    "sharpness": Operation(sharpness, _factor),
    "shear_x": Operation(shear_x, _shear),
    "shear_y": Operation(shear_y, _shear),
    "translate_x": Operation(translate_x, _shift),
    "translate_y": Operation(translate_y, _shift),
}
