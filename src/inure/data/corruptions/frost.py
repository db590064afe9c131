"""Drawn frost, in place of the photographs of frost that the official corruption lays over images."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

from ...libraries import Image, ndimage, np
from .plasma import plasma

if TYPE_CHECKING:
    from PIL import ImageDraw

TEXTURES = 5
"""How many there are."""
SIDE = 512
"""Their height and width in pixels. They can be tiled."""
_CRYSTALS = 100
_PANE = np.array([0.10, 0.15, 0.22], np.float32)
_ICE = np.array([0.93, 0.97, 1.00], np.float32)


@lru_cache(maxsize=TEXTURES)
def frost_texture(number: int) -> np.ndarray:
    """Texture ``number`` (0 to 4) as (512, 512, 3) uint8: feathers of ice over a bluish pane, thin ice between.

    It depends on nothing but its number, as a photograph would.
    """
    rng = np.random.Generator(np.random.PCG64(number))
    lines, clouds = _feathers(rng), plasma(SIDE, 1.6, rng)
    ice = 0.6 * clouds + 0.7 * lines + 0.7 * ndimage.gaussian_filter(lines, 4, mode="wrap")
    # Ice grows in patches: elsewhere the pane stays almost clear
    ice *= 0.3 + plasma(SIDE, 1.9, rng)
    # All textures equally bright: severity, not the draw, is to decide about the damage
    ice = 0.42 + 0.28 * (ice - ice.mean()) / ice.std() + 0.04 * rng.standard_normal(ice.shape, np.float32)
    ice = np.clip(ice, 0, 1)[..., None]
    return np.round(255 * (_PANE + (_ICE - _PANE) * ice)).astype(np.uint8)


def _feathers(rng: np.random.Generator) -> np.ndarray:
    """Crystals with side branches at 60 degrees, (512, 512) in [0, 1], tiled without a seam."""
    from PIL import ImageDraw

    sheet = Image.new("L", (2 * SIDE, 2 * SIDE))
    draw = ImageDraw.Draw(sheet)
    for _ in range(_CRYSTALS):
        _draw_feather(draw, rng)
    tiles = np.asarray(sheet, np.float32).reshape(2, SIDE, 2, SIDE) / 255
    return ndimage.gaussian_filter(tiles.max((0, 2)), 0.7, mode="wrap")


def _draw_feather(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """A slightly bent stem whose branches get shorter towards its tip."""
    x, y = rng.uniform(SIDE / 2, 1.5 * SIDE, 2)
    angle, length = rng.uniform(0, 2 * math.pi), rng.uniform(60, 240)
    bend, width, place = rng.normal(0, 0.03), rng.uniform(0.2, 0.5), 0.0
    while place < length:
        step = rng.uniform(3, 9)
        angle += bend
        tip = x + step * math.cos(angle), y + step * math.sin(angle)
        draw.line((x, y, *tip), fill=int(rng.uniform(160, 255)), width=2)
        for side in (-1, 1):
            branch = width * (length - place) * rng.uniform(0.2, 1)
            turn = angle + side * math.pi / 3 + rng.normal(0, 0.1)
            end = tip[0] + branch * math.cos(turn), tip[1] + branch * math.sin(turn)
            draw.line((*tip, *end), fill=int(rng.uniform(60, 255)))
        (x, y), place = tip, place + step
