import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inure.data import Augment, RandAugment
from inure.settings.config import build, dump
from inure.settings.errors import UserError


def slow_geometric(x, padding, mode, flip):
    """One image at a time, by numpy's padding, from the same draws."""
    images = []
    top, left = torch.randint(2 * padding + 1, (2, len(x))) if padding else torch.zeros(2, len(x), dtype=torch.int64)
    mirrored = torch.rand(len(x), 1, 1, 1).flatten() < 0.5 if flip else torch.zeros(len(x), dtype=torch.bool)
    height, width = x.shape[2:]
    for image, row, column, mirror in zip(x.numpy(), top.tolist(), left.tolist(), mirrored.tolist(), strict=True):
        pads = ((0, 0), (padding, padding), (padding, padding))
        padded = np.pad(image, pads, mode="constant" if mode == "zeros" else "reflect")
        crop = padded[:, row : row + height, column : column + width]
        images.append(crop[:, :, ::-1] if mirror else crop)
    return torch.from_numpy(np.stack(images))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6), st.sampled_from([1, 3]), st.integers(4, 9), st.integers(4, 9), st.integers(0, 3),
    st.sampled_from(["zeros", "reflect"]), st.booleans(), st.integers(0, 100),
)  # fmt: skip
def test_crop_and_flip_equal_the_slow_version(batch, channels, height, width, padding, mode, flip, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (batch, channels, height, width), dtype=torch.uint8, generator=generator)
    before = x.clone()
    augment = Augment(crop_padding=padding, crop_mode=mode, flip=flip)
    torch.manual_seed(seed)
    fast = augment.geometric(x)
    torch.manual_seed(seed)
    assert torch.equal(fast, slow_geometric(x, padding, mode, flip))
    assert fast.dtype == torch.uint8
    assert torch.equal(x, before)


def test_each_example_draws_its_own_place():
    x = torch.arange(1, 65, dtype=torch.uint8).reshape(1, 1, 8, 8).expand(400, 1, 8, 8)
    torch.manual_seed(0)
    results = {tuple(image.flatten().tolist()) for image in Augment(crop_padding=2, flip=True).geometric(x)}
    assert len(results) == 5 * 5 * 2


def test_geometric_never_waits_for_the_device():
    # A tensor of the meta device has no values: anything that reads one back raises.
    x = torch.empty(7, 3, 8, 8, dtype=torch.uint8, device="meta")
    for mode in ("zeros", "reflect"):
        y = Augment(crop_padding=2, crop_mode=mode, flip=True).geometric(x)
        assert y.shape == x.shape
    y = Augment(resized_crop=(0.1, 1), flip=True, rand_augment=RandAugment(layers=9, probability=1)).geometric(x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)


@pytest.mark.gpu
def test_augmentation_never_synchronises_with_the_gpu():
    x = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8).cuda()
    y = torch.arange(9).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        changes = {"flip": True, "mixup": 0.8, "cutmix": 1, "rand_augment": RandAugment()}
        for crop in ({"crop_padding": 2}, {"resized_crop": (0.1, 1)}):
            augment = Augment(**crop, **changes)
            for _ in range(10):
                augment.mix(augment.geometric(x).float().div_(255), y, 10)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_reflecting_more_than_the_image_is_refused():
    with pytest.raises(UserError, match="augment.crop_padding: got 4"):
        Augment(crop_padding=4, crop_mode="reflect").geometric(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))


def corners(batch, size=6):
    """Images that hold 0, 1 and values between, where rounding would show."""
    x = torch.randint(0, 256, (batch, 3, size, size)).float() / 255
    x[: batch // 2 + 1] = x[: batch // 2 + 1].round()
    return x


mixes = st.sampled_from([{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}, {"mixup": 8.0}])


@settings(max_examples=60, deadline=None)
@given(mixes, st.integers(1, 7), st.integers(0, 10_000), st.booleans())
def test_mixing_keeps_pixels_and_labels_in_range(kinds, batch, seed, soft):
    torch.manual_seed(seed)
    x, y = corners(batch), torch.randint(0, 5, (batch,))
    if soft:
        y = torch.softmax(torch.randn(batch, 5), dim=1)
    before = x.clone()
    x_mixed, y_mixed = Augment(**kinds).mix(x, y, 5)
    assert x_mixed.shape == x.shape
    assert x_mixed.dtype == torch.float32
    assert float(x_mixed.min()) >= 0
    assert float(x_mixed.max()) <= 1
    assert y_mixed.shape == (batch, 5)
    torch.testing.assert_close(y_mixed.sum(1), torch.ones(batch))
    assert float(y_mixed.min()) >= 0
    assert torch.equal(x, before)


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_mixup_mixes_images_as_labels_say(batch):
    torch.manual_seed(0)
    x, y = corners(batch), torch.arange(batch)
    x_mixed, y_mixed = Augment(mixup=1).mix(x, y, batch)
    # Every image is the sum that its label states.
    torch.testing.assert_close(x_mixed, torch.einsum("bk,kchw->bchw", y_mixed, x))
    if batch % 2:
        torch.testing.assert_close(x_mixed[batch // 2], x[batch // 2])


@pytest.mark.parametrize("shape", [(8, 8), (5, 12), (1, 1)])
@pytest.mark.parametrize("batch", [2, 5])
def test_cutmix_labels_are_the_true_shares_of_the_area(batch, shape):
    values = torch.arange(1, batch + 1) / 8
    x = values[:, None, None, None].expand(batch, 3, *shape).clone()
    boxes = set()
    for seed in range(60):
        torch.manual_seed(seed)
        x_mixed, y_mixed = Augment(cutmix=1).mix(x, torch.arange(batch), batch)
        for k in range(batch):
            shares = [(x_mixed[k] == value).float().mean() for value in values]
            torch.testing.assert_close(y_mixed[k], torch.stack(shares))
        pasted = x_mixed[0, 0] != x[0, 0]
        rows, columns = pasted.any(1), pasted.any(0)
        # One rectangle, the same in every image.
        assert int(pasted.sum()) == int(rows.sum()) * int(columns.sum())
        boxes.add(int(pasted.sum()))
    assert len(boxes) > 5 or shape == (1, 1)


def test_without_a_mix_labels_are_one_hot_of_the_same_shape():
    x, y = corners(3), torch.tensor([2, 0, 1])
    x_same, y_soft = Augment(mixup=1, mix_probability=0).mix(x, y, 4)
    assert torch.equal(x_same, x)
    assert torch.equal(y_soft, torch.nn.functional.one_hot(y, 4).float())


def test_probabilities_say_how_often():
    x = torch.tensor([0.25, 0.75]).reshape(2, 1, 1, 1).expand(2, 1, 16, 16).clone()
    augment = Augment(mixup=1, cutmix=1, mix_probability=0.5, switch_probability=0.25)
    torch.manual_seed(0)
    kinds = {"none": 0, "mixup": 0, "cutmix": 0}
    for _ in range(800):
        values = augment.mix(x, torch.tensor([0, 1]), 2)[0][0].unique()
        blended = not set(values.tolist()) <= {0.25, 0.75}
        kinds["mixup" if blended else "none" if values.tolist() == [0.25] else "cutmix"] += 1
    assert kinds["mixup"] == pytest.approx(300, abs=60)
    # A small CutMix box may be empty.
    assert 50 < kinds["cutmix"] < 150


def test_manual_seed_covers_every_draw():
    augment = Augment(crop_padding=2, flip=True, mixup=0.8, cutmix=1)
    x, y = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8), torch.arange(6)
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        np.random.seed(None)
        results.append(augment.mix(augment.geometric(x).float() / 255, y, 6))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_settings_round_trip_and_are_checked():
    augment = build(Augment, {"crop_padding": 4, "flip": True, "mixup": "4/5", "cutmix": 1})
    assert augment.mixup == 0.8
    assert build(Augment, dump(augment)) == augment
    for wrong in ({"crop_padding": -1}, {"mixup": -0.1}, {"mix_probability": 1.1}, {"crop_mode": "wrap"}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            build(Augment, wrong)
