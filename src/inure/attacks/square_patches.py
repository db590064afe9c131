"""What Square tries next: windows of one colour under Linf, windows of bumps that move mass under L2 and L1."""

from __future__ import annotations

import math
from functools import lru_cache

from ..libraries import F, Tensor, torch
from ..threat import L1, Geometry, Linf, per_image
from ..types import Images, Noise

_TINY = 1e-12


def first_guess(threat: Geometry, x: Images, noise: Noise) -> Images:
    """Where the search starts.

    Linf: vertical stripes one pixel wide, each +epsilon or -epsilon in each channel. L2 and L1: the image tiled with
    bumps (about 5 x 5 squares, each of random sign in each channel, lying or standing at random), brought to the
    radius under L2 and projected under L1.
    """
    if isinstance(threat, Linf):
        return _corner(threat, x, _signs(noise.uniform(x[:, :, :1])))
    batch, channels, height, width = x.shape
    side = max(min(height, width) // 5, 1)
    down, across = height // side, width // side
    drawn = noise.uniform(x.new_empty(batch, 1 + channels, down, across))
    signs = _signs(drawn[:, 1:])
    tiles = _turned(drawn[:, :1] < 0.5, _bumps_of(threat, side, x)) * signs[..., None, None]
    tiled = tiles.permute(0, 1, 2, 4, 3, 5).reshape(batch, channels, down * side, across * side)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    delta = F.pad(tiled, (left, width - across * side - left, top, height - down * side - top))
    return _to_the_radius(threat, x, delta)


def numbers_of(threat: Geometry, channels: int) -> int:
    """How many random numbers an example needs for one proposal: places, signs, an orientation."""
    return 2 + channels if isinstance(threat, Linf) else 5 + channels


def side_of(threat: Geometry, share: float, height: int, width: int) -> int:
    """The side of the window, in pixels, that covers ``share`` of the image.

    At least 1 under Linf, at least 3 and odd under L2 and L1, never more than the image's shorter side.
    """
    side = round(math.sqrt(share * height * width))
    least = 1 if isinstance(threat, Linf) else 3
    side = max(side, least)
    if not isinstance(threat, Linf):
        side += 1 - side % 2
    return min(side, height, width)


def propose(threat: Geometry, x: Images, x_best: Images, side: int, drawn: Tensor) -> Images:
    """The best point of each example with one window changed, the place drawn for each example by itself.

    Args:
        threat: Where the proposals lie; radii may be (B,).
        x: (B, C, H, W) the clean images.
        x_best: (B, C, H, W) the best points so far.
        side: Of the windows, in pixels.
        drawn: (B, ``numbers_of(threat, C)``) uniform on [0, 1).
    """
    if isinstance(threat, Linf):
        place, signs = _places(drawn[:, :2], x, side), _signs(drawn[:, 2:])
        return torch.where(_mask(place, x, side), _corner(threat, x, signs[..., None, None]), x_best)
    first, second = (_window(_places(drawn[:, i : i + 2], x, side), x, side) for i in (0, 2))
    bumps = _turned(drawn[:, 4:5] < 0.5, _bumps_of(threat, side, x)) * _signs(drawn[:, 5:])[..., None, None]
    delta = _moved((x_best - x).flatten(2), bumps.flatten(2), first, second, threat)
    return _to_the_radius(threat, x, delta.view(x.shape))


def bumps(side: int, power: int) -> Tensor:
    """(side, side) float64: a bump above, its negative below, each a heap of rectangles one pixel apart.

    Within a half, the pixel at Chebyshev distance m from the middle has height sum_(k >= m) (k + 1)^(-2 power), up to
    the last k at which the rectangle covers the half. The whole has norm 1.

    Args:
        side: At least 1; 1 is a single pixel.
        power: 2 for the Euclidean norm, and heights 1 / (k + 1)^2; 1 for the L1 norm, and heights 1 / (k + 1)^4.
    """
    upper = _heap(side // 2, side, power)
    lower = _heap(side - side // 2, side, power)
    both = torch.cat([upper, -lower])
    return both / both.norm(p=power)


def _heap(height: int, width: int, power: int) -> Tensor:
    if not height:
        return torch.zeros(0, width, dtype=torch.float64)
    count = max(height, width) // 2 + 1
    heights = torch.arange(1, count + 1, dtype=torch.float64) ** (-4 if power == 1 else -2)
    # Each further rectangle adds its height to all that lies within it
    at_distance = heights.flip(0).cumsum(0).flip(0)
    rows, columns = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    heap = at_distance[torch.maximum(rows.abs()[:, None], columns.abs())]
    return heap / heap.norm(p=power)


def _moved(delta: Tensor, bumps: Tensor, first: Tensor, second: Tensor, threat: Geometry) -> Tensor:
    """The perturbation with the mass of the second window moved to the first, in its old shape plus bumps.

    A channel's first window gets the norm that both windows had in that channel, and its share of what the image
    had left of the radius.

    Args:
        delta: (B, C, H * W).
        bumps: (B, C, side^2) of norm 1.
        first: (B, C, side^2) positions in H * W.
        second: Likewise.
        threat: L2, or L1: there the new window is C times too large, and the projection cuts it down.
    """
    power, channels = _power(threat), delta.shape[1]
    inside, rest = delta.gather(2, first), delta.scatter(2, first, 0.0)
    windows = _mass(inside, power) + _mass(rest.gather(2, second), power)
    unused = (per_image(threat.epsilon, delta) ** power - _mass(delta, power).sum(1, keepdim=True)).clamp_min(0)
    new = bumps + inside / _norm(inside, power)
    new = new / _norm(new, power) * (unused / channels + windows) ** (1 / power)
    if power == 1:
        new = new * channels
    return rest.scatter(2, second, 0.0).scatter(2, first, new)


def _to_the_radius(threat: Geometry, x: Images, delta: Tensor) -> Images:
    """L2: scaled up or down to the radius, then clamped to [0, 1]. L1: the nearest point of ball and box."""
    if not isinstance(threat, L1):
        size = delta.flatten(1).norm(dim=1).clamp_min(_TINY).view(-1, 1, 1, 1)
        delta = delta / size * per_image(threat.epsilon, x)
    return threat.project(x + delta, x)


def _corner(threat: Linf, x: Images, signs: Tensor) -> Images:
    return (x + per_image(threat.epsilon, x) * signs).clamp(0, 1)


def _power(threat: Geometry) -> int:
    return 1 if isinstance(threat, L1) else 2


def _mass(v: Tensor, power: int) -> Tensor:
    return (v.abs() if power == 1 else v.square()).sum(2, keepdim=True)


def _norm(v: Tensor, power: int) -> Tensor:
    return (_mass(v, power) ** (1 / power)).clamp_min(_TINY)


def _signs(drawn: Tensor) -> Tensor:
    return 1 - 2 * (drawn < 0.5).to(drawn)


def _places(drawn: Tensor, x: Images, side: int) -> Tensor:
    """(B, 2) int64: row and column of the window's first pixel, every place in the image equally likely."""
    row, column = (drawn[:, i] * (x.shape[2 + i] - side + 1) for i in (0, 1))
    # The clamp is for rounding: the largest number below 1 times the count may give the count
    return torch.stack([row.long().clamp_max(x.shape[2] - side), column.long().clamp_max(x.shape[3] - side)], 1)


def _mask(place: Tensor, x: Images, side: int) -> Tensor:
    """(B, 1, H, W) true in the window."""
    rows, columns = (torch.arange(n, device=x.device) - place[:, i, None] for i, n in enumerate(x.shape[2:]))
    rows, columns = (rows >= 0) & (rows < side), (columns >= 0) & (columns < side)
    return rows[:, None, :, None] & columns[:, None, None, :]


def _window(place: Tensor, x: Images, side: int) -> Tensor:
    """(B, C, side^2) the positions of the window's pixels in the flattened image."""
    span = torch.arange(side, device=x.device)
    rows, columns = place[:, :1] + span, place[:, 1:] + span
    flat = (rows[:, :, None] * x.shape[3] + columns[:, None, :]).flatten(1)
    return flat[:, None].expand(-1, x.shape[1], -1)


def _bumps_of(threat: Geometry, side: int, x: Images) -> Tensor:
    return _kept_bumps(side, _power(threat), x.dtype, x.device)


@lru_cache(maxsize=32)
def _kept_bumps(side: int, power: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """On the device: a copy at every query would wait for it."""
    return bumps(side, power).to(device, dtype)


def _turned(standing: Tensor, pattern: Tensor) -> Tensor:
    """The pattern, turned where ``standing`` (any shape S) says so: (*S, side, side)."""
    return torch.where(standing[..., None, None], pattern.T, pattern)
