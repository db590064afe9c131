"""Heat maps: every figure in its cell, readable on its colour."""

import io

import pytest
from matplotlib.figure import Figure
from PIL import Image

from inure.display.drawing import heat_map, png


@pytest.fixture
def axes():
    return Figure().subplots()


def test_figures_stand_in_their_cells_and_empty_cells_have_none(axes):
    heat_map(axes, [[0, 50], [None, 100]], rows=["a", "b"], columns=["1", "2"])
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0, 0): "0.0", (1, 0): "50.0", (1, 1): "100.0",
    }  # fmt: skip
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


@pytest.mark.parametrize("limits", [(0, 100), (-3, 3)])
def test_figures_contrast_with_the_colour_of_their_cell(axes, limits):
    low, high = limits
    values = [low + (high - low) * step / 20 for step in range(21)]
    image = heat_map(axes, [values], rows=[], columns=[""] * 21, limits=limits)
    for text, value in zip(axes.texts, values, strict=True):
        red, green, blue, _ = image.to_rgba(value)
        light = sum(
            w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
            for w, c in zip((0.2126, 0.7152, 0.0722), (red, green, blue), strict=True)
        )
        contrast = 1.05 / (light + 0.05) if text.get_color() == "white" else (light + 0.05) / 0.05
        assert contrast > 3.0, value


def test_a_drawing_becomes_a_png_of_150_dots_per_inch():
    assert Image.open(io.BytesIO(png(Figure(figsize=(2, 1))))).size == (300, 150)
