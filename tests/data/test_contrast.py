import pickle

import pytest
import torch

from inure.data import Data, ImageSet, load
from inure.data.contrast import with_contrast
from inure.settings.config import build
from inure.settings.errors import UserError


def ramp():
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    return ImageSet.from_arrays(values, torch.tensor([0]), ("only",))


@pytest.mark.parametrize("contrast", [0.5, 0.3, 0.01])
def test_every_value_is_shrunk_around_mid_grey_and_rounded(contrast):
    found = with_contrast(ramp(), contrast).batch(torch.tensor([0])).double() / 255
    exact = 0.5 + contrast * (torch.arange(256).double().reshape(1, 1, 16, 16) / 255 - 0.5)
    assert (found - exact).abs().max() <= 0.5 / 255 + 1e-12


def test_half_contrast_spans_a_quarter_to_three_quarters():
    pixels = with_contrast(ramp(), 0.5).batch(torch.tensor([0]))
    assert (int(pixels.min()), int(pixels.max())) == (64, 191)


def test_full_contrast_is_the_set_itself_and_any_other_is_other_data():
    assert with_contrast(ramp(), 1.0) is not None
    images = ramp()
    assert with_contrast(images, 1.0) is images
    assert len({with_contrast(images, c).hash for c in (1.0, 0.5, 0.25)}) == 3


def test_training_validation_and_test_images_have_the_same_contrast():
    data, plain = Data(contrast=0.5), Data()
    for ours, theirs in zip(
        [*data.load_training(None), data.load_test(None)], [*plain.load_training(None), plain.load_test(None)],
        strict=True,
    ):  # fmt: skip
        expected = (127.5 + 0.5 * (theirs.pixels.double() - 127.5)).round().to(torch.uint8)
        assert torch.equal(ours.pixels, expected)
        assert torch.equal(ours.labels, theirs.labels)


def test_images_decoded_on_demand_are_shrunk_too():
    eager, lazy = load("digits", "test", contrast=0.5), load("digits", "test", contrast=0.5, memory_limit=1)
    assert not lazy.in_memory
    rows = torch.tensor([3, 0, 200])
    assert torch.equal(lazy.batch(rows), eager.batch(rows))
    assert torch.equal(lazy.subset(rows).batch(torch.tensor([1])), eager.batch(torch.tensor([0])))
    assert torch.equal(pickle.loads(pickle.dumps(lazy)).batch(rows), eager.batch(rows))


@pytest.mark.parametrize("given", [0, 1.5, -0.5, "x"])
def test_other_contrasts_are_refused(given):
    with pytest.raises(UserError, match="contrast"):
        build(Data, {"contrast": given})
