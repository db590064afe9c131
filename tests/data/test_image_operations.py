"""Each operation on a batch against Pillow's on one image after the other."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from inure.data.image_operations import OPERATIONS

GREY = 128


def images(channels: int, height: int = 17, width: int = 23) -> torch.Tensor:
    """Noise, smooth ramps, flat images, few grey levels and narrow ranges."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (4, channels, height, width), dtype=torch.uint8, generator=generator)
    ramp = torch.linspace(20, 230, height * width).reshape(1, 1, height, width).expand(1, channels, -1, -1)
    flat = torch.full((1, channels, height, width), 77, dtype=torch.uint8)
    edges = (noise[:1] > 127).to(torch.uint8) * 255
    return torch.cat([noise, ramp.to(torch.uint8), flat, edges, noise[:1] // 4 + 90, noise[1:2] // 16 * 16])


def pillow(image: torch.Tensor) -> Image.Image:
    array = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def fill(image: Image.Image) -> int | tuple[int, ...]:
    return GREY if image.mode == "L" else (GREY,) * 3


def affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR, fillcolor=fill(image)
    )


PILLOW = {
    "auto_contrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "invert": lambda image, _: ImageOps.invert(image),
    "rotate": lambda image, s: image.rotate(s, resample=Image.Resampling.BILINEAR, fillcolor=fill(image)),
    "posterize": lambda image, s: ImageOps.posterize(image, int(s)),
    "solarize": lambda image, s: ImageOps.solarize(image, int(s)),
    "solarize_add": lambda image, s: image.point([i + int(s) * (i < 128) for i in range(256)] * len(image.getbands())),
    "color": lambda image, s: ImageEnhance.Color(image).enhance(s),
    "contrast": lambda image, s: ImageEnhance.Contrast(image).enhance(s),
    "brightness": lambda image, s: ImageEnhance.Brightness(image).enhance(s),
    "sharpness": lambda image, s: ImageEnhance.Sharpness(image).enhance(s),
    "shear_x": lambda image, s: affine(image, (1, s, 0, 0, 1, 0)),
    "shear_y": lambda image, s: affine(image, (1, 0, 0, s, 1, 0)),
    "translate_x": lambda image, s: affine(image, (1, 0, s * image.width, 0, 1, 0)),
    "translate_y": lambda image, s: affine(image, (1, 0, 0, 0, 1, s * image.height)),
}  # fmt: skip

STRENGTHS = {
    "posterize": [1, 2, 3, 4, 8],
    "solarize": [0, 1, 26, 128, 255, 256],
    "solarize_add": [0, 1, 55, 99, 110],
    **dict.fromkeys(["color", "contrast", "brightness", "sharpness"], [0.1, 0.5, 0.93, 1, 1.3, 1.81, 1.9]),
    "rotate": [-30, -27, -5, 0, 0.4, 11, 30],
    **dict.fromkeys(["shear_x", "shear_y"], [-0.3, -0.1, 0, 0.27]),
    **dict.fromkeys(["translate_x", "translate_y"], [-0.45, -0.11, 0, 0.02, 0.405]),
}
EXACT = {"invert", "posterize", "solarize", "solarize_add", "equalize"}
MOVING = {"rotate", "shear_x", "shear_y", "translate_x", "translate_y"}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_pillows(name, channels):
    x = images(channels)
    strengths = STRENGTHS.get(name, [0])
    for shift in range(len(strengths)):
        # Neighbours in the batch have different strengths
        values = [float(strengths[(row + shift) % len(strengths)]) for row in range(len(x))]
        before = x.clone()
        got = OPERATIONS[name].apply(x, torch.tensor(values))
        assert (got.dtype, got.shape) == (torch.uint8, x.shape)
        assert torch.equal(x, before)
        for image, result, value in zip(x, got, values, strict=True):
            wanted = torch.from_numpy(np.array(PILLOW[name](pillow(image), value))).reshape(*image.shape[1:], -1)
            difference = (result.int() - wanted.permute(2, 0, 1).int()).abs()
            # A place on the very border may be inside for one and outside for the other
            off = (difference > (0 if name in EXACT else 1)).any(0)
            assert int(off.sum()) <= (2 if name in MOVING else 0), f"{value}: {difference.max()}"


NEUTRAL = {"posterize": 8, "solarize": 256, "color": 1, "contrast": 1, "brightness": 1, "sharpness": 1}


@pytest.mark.parametrize("name", sorted({*OPERATIONS} - {"auto_contrast", "equalize", "invert"}))
def test_the_neutral_strength_changes_nothing(name):
    x = images(3)
    assert torch.equal(OPERATIONS[name].apply(x, torch.full((len(x),), float(NEUTRAL.get(name, 0)))), x)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 3)])
def test_small_images_are_taken(name, size):
    x = images(3, *size)
    strengths = torch.full((len(x),), float(STRENGTHS.get(name, [0])[-1]))
    assert OPERATIONS[name].apply(x, strengths).shape == x.shape


def test_strengths_are_those_of_the_increasing_set():
    level, sign = torch.tensor([0.0, 0.9, 0.9, 1.0], dtype=torch.float64), torch.tensor([1, 1, -1, -1])
    wanted = {
        "rotate": [0, 27, -27, -30],
        "posterize": [4, 1, 1, 0],
        "solarize": [256, 256 - math.floor(230.4), 26, 0],
        "solarize_add": [0, 99, 99, 110],
        **dict.fromkeys(["color", "contrast", "brightness", "sharpness"], [1, 1.81, 0.19, 0.1]),
        **dict.fromkeys(["shear_x", "shear_y"], [0, 0.27, -0.27, -0.3]),
        **dict.fromkeys(["translate_x", "translate_y"], [0, 0.405, -0.405, -0.45]),
        **dict.fromkeys(["auto_contrast", "equalize", "invert"], [0, 0, 0, 0]),
    }
    assert wanted.keys() == OPERATIONS.keys()
    for name, values in wanted.items():
        got = OPERATIONS[name].strength(level, sign)
        torch.testing.assert_close(got, torch.tensor(values, dtype=torch.float64), msg=name)


TIMMS = {
    "rotate": "Rotate",
    "posterize": "PosterizeIncreasing",
    "solarize": "SolarizeIncreasing",
    "solarize_add": "SolarizeAdd",
    **{name: f"{name.title()}Increasing" for name in ("color", "contrast", "brightness", "sharpness")},
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
}


@pytest.mark.parametrize("name", TIMMS)
def test_strengths_are_timms(name):
    from timm.data.auto_augment import LEVEL_TO_ARG

    levels = torch.linspace(0, 1, 41, dtype=torch.float64)
    plus, minus = (OPERATIONS[name].strength(levels, torch.full((41,), sign)).tolist() for sign in (1, -1))
    for level, *ours in zip(levels.tolist(), plus, minus, strict=True):
        theirs = LEVEL_TO_ARG[TIMMS[name]](10 * level, {})[0]  # draws the sign itself
        assert min(abs(theirs - value) for value in ours) < 1e-9, level


def test_no_bits_are_black():
    assert not OPERATIONS["posterize"].apply(images(3), torch.zeros(len(images(3)))).any()


def test_a_shift_moves_pixels_by_whole_places():
    x = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
    moved = OPERATIONS["translate_x"].apply(x, torch.tensor([0.25]))
    assert torch.equal(moved[..., :3], x[..., 1:])
    assert (moved[..., 3] == GREY).all()
    lower = OPERATIONS["translate_y"].apply(x, torch.tensor([-0.5]))
    assert torch.equal(lower[:, :, 2:], x[:, :, :2])
    assert (lower[:, :, :2] == GREY).all()


def test_a_quarter_turn_is_exact():
    x = images(3, 9, 9)
    turned = OPERATIONS["rotate"].apply(x, torch.full((len(x),), 90.0))
    assert torch.equal(turned, x.rot90(1, (2, 3)))
