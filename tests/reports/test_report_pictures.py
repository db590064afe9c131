"""Pictures and figures: pixel values, the factor, and SVG that is fit to stand in a page."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inure.measures import MEASURES
from inure.reports.figures import confusion_figure, shorten, training_curves
from inure.reports.panels import PANELS
from inure.reports.pictures import example_pictures
from inure.reports.run_files import RunFiles


def examples(x, x_adv):
    ones = np.ones(len(x), dtype=np.int64)
    return {"x": x, "x_adv": x_adv, "label": ones, "clean_prediction": ones, "adversarial_prediction": 2 * ones}


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


@pytest.mark.parametrize(
    ("epsilon", "factor"), [(0.1, 5), (8 / 255, 15), (0.5, 1), (0.9, 1), (0.0, 1), (1 / 2550, 1200)]
)
def test_the_factor_is_the_largest_round_one_that_clips_nothing(epsilon, factor):
    x = np.zeros((2, 1, 4, 4), dtype=np.float32)
    assert example_pictures(examples(x, x + np.float32(epsilon)))[1] == factor


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_hold_the_pixels_and_grey_is_no_change(channels):
    rng = np.random.default_rng(0)
    x = rng.random((1, channels, 5, 6)).astype(np.float32) * 0.8
    x_adv = x.copy()
    x_adv[..., 0] += np.float32(0.1)
    (picture,), factor = example_pictures(examples(x, x_adv))
    shown = x[0].transpose(1, 2, 0) if channels == 3 else x[0, 0]
    assert np.abs(pixels(picture.clean) / 255 - shown).max() <= 0.5 / 255 + 1e-6
    noise = pixels(picture.perturbation).astype(int)
    assert factor == 5
    assert (noise[:, 1:] == 128).all()
    assert (noise[:, 0] >= 254).all()


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channel_counts_are_shown_too_and_nan_is_harmless(channels):
    x = np.full((1, channels, 4, 4), np.nan, dtype=np.float32)
    (picture,), factor = example_pictures(examples(x, x))
    assert factor == 1
    assert pixels(picture.clean).max() == 0


def test_examples_wrong_from_the_start_are_not_called_attacked():
    x = np.zeros((2, 1, 4, 4), dtype=np.float32)
    told = examples(x, x) | {"clean_prediction": np.array([1, 0])}
    assert [picture.attacked for picture in example_pictures(told)[0]] == [True, False]


def test_large_images_are_shrunk():
    x = np.zeros((1, 3, 300, 200), dtype=np.float32)
    (picture,), _ = example_pictures(examples(x, x))
    assert pixels(picture.clean).shape == (128, 85, 3)


def epochs(values, key="loss"):
    return [{"event": "epoch", "epoch": i + 1, "lr": 0.1, "train": {key: value}} for i, value in enumerate(values)]


def run_of(records, events=(), **run):
    return RunFiles(path=Path("run"), name="<run>", epochs=records, events=[*events], run=run)


def texts(figure) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", figure)


def test_curves_are_valid_svg_without_addresses_or_fixed_ink():
    figures = training_curves([run_of(epochs([3.0, None, float("nan"), 1.0]), best={"epoch": 4})])
    assert len(figures) == 2
    ids = []
    for figure in figures:
        root = ElementTree.fromstring(str(figure).replace("xlink:href", "href"))
        assert root.get("role") == "img"
        assert "<run>" in root.get("aria-label")
        assert "http" not in figure
        assert "var(--ink)" in figure
        assert not re.search("#01020[3-5]", figure)
        ids += re.findall(r'\bid="([^"]*)"', figure)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("values", [[1e-6, 1e3], [-1.0, -2.0], [0.0, 0.0], [1e30], [5e-324, 0.0]])
def test_curves_of_any_size_are_drawn(values):
    assert training_curves([run_of(epochs(values))])


def test_a_logarithmic_axis_has_plain_labels():
    figures = training_curves([run_of(epochs([1e-4, 1.0, 1e3]))])
    assert re.search(r">(0\.001|0\.01|0\.1)<", figures[0])
    assert not any("mathdefault" in figure for figure in figures)


def test_runs_are_overlaid_and_unrecorded_quantities_left_out():
    one, two = run_of(epochs([2.0, 1.0])), run_of(epochs([0.3, 0.2], "grad_norm"))
    assert len(training_curves([one, two])) == 3
    assert training_curves([run_of([])]) == []


def test_every_number_that_a_measure_records_has_its_panel():
    keys = [line.key for panel in PANELS for line in panel.lines]
    names = [f"measures.{name}" for measure in MEASURES for name in measure.names]
    assert {*names} == {key for key in keys if key.startswith("measures.")}
    assert len({*keys}) == len(keys)


def test_measures_are_drawn_at_every_look_also_where_nothing_was_validated():
    noted = [
        {"event": "noted", "epoch": epoch, "measures": {"kernel_rank": 2.0 + epoch, "gradient_alignment": 0.9}}
        for epoch in (1, 3, 2)
    ]
    warning = {"event": "warning", "epoch": 1, "measures": {"kernel_rank": 50.0}}
    # Epoch 2 was made twice, the first time without a validation: what was found then does not count
    validated = {"event": "epoch", "epoch": 2, "measures": {"kernel_rank": 7.0}, "validation": {"alignment": 0.5}}
    figures = training_curves([run_of([validated], [*noted, warning])])
    assert len(figures) == 2
    alignment, rank = figures
    assert "Gradient alignment: measured (full), at validation (dotted)" in texts(alignment)
    assert "Kernel: effective rank" in texts(rank)
    (line,) = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--ink\); stroke-width: 1.6', rank)
    points = np.array([[*map(float, point.split())] for point in re.split("[ML]", line)[1:]])
    assert np.diff(points[:, 0]) == pytest.approx([np.diff(points[:, 0])[0]] * 2)
    # 3, 7, 5: down the page is down
    heights = -(points[:, 1] - points[0, 1])
    assert heights / heights[1] == pytest.approx([0, 1, 0.5], abs=1e-3)


def test_a_panel_names_its_lines_only_where_there_are_several():
    alone = training_curves([run_of([{"event": "epoch", "epoch": 1, "validation": {"alignment": 0.5}}])])
    assert "Gradient alignment" in texts(alone[0])


@pytest.mark.parametrize("first", [1, 3, 40])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_ticks_are_epochs_however_few_there_are(first, count):
    records = [{"event": "epoch", "epoch": first + i, "train": {"loss": 1.0 + i}} for i in range(count)]
    (figure,) = training_curves([run_of(records)])
    ticks = [text for text in texts(figure[: figure.index('"curve0-matplotlib.axis_2"')]) if text != "epoch"]
    assert ticks
    assert all(re.fullmatch(r"\d+", tick) for tick in ticks)


def test_confusion_shows_counts_up_to_twenty_classes():
    counts = np.diag([41, 42, 43])
    figure = confusion_figure(
        counts, ["a<b", "$x$", "y" * 40], ["a<b", "$x$", "y" * 40], name="c", title="Clean images"
    )
    texts = [element.text for element in ElementTree.fromstring(str(figure).replace("xlink:href", "href")).iter("text")]
    assert {"41", "42", "43", "a<b", "$x$", "y" * 11 + "…"} <= set(texts)
    assert "126 of 126 right" in figure
    names = [str(i) for i in range(200)]
    large = confusion_figure(np.eye(200, dtype=int), names, names, name="d", title="Clean images")
    assert len(large) < 60_000


def test_shortening_keeps_one_line():
    assert shorten("a\nb  c", 10) == "a b c"
    assert shorten("abcdef", 4) == "abc…"
