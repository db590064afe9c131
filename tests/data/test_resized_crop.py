import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from inure.data import Augment
from inure.data.resized_crop import _boxes, resized_crop
from inure.settings.config import build
from inure.settings.errors import UserError


def noise(batch: int, height: int = 14, width: int = 14) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("height", "width"), [(14, 14), (9, 21), (40, 12)])
def test_crops_are_torchvisions_of_the_same_boxes(height, width):
    x = noise(30, height, width)
    before = x.clone()
    torch.manual_seed(0)
    got = resized_crop(x, 0.1, 1)
    torch.manual_seed(0)
    boxes = torch.stack(_boxes(30, height, width, 0.1, 1, x.device)).T.int().tolist()
    for image, result, (top, left, tall, wide) in zip(x, got, boxes, strict=True):
        # On floats: torchvision computes with uint8 images in few bits
        wanted = functional.resized_crop(image.float(), top, left, tall, wide, [height, width], antialias=False)
        assert float((result - wanted).abs().max()) <= 0.51
    assert (got.dtype, got.shape) == (torch.uint8, x.shape)
    assert torch.equal(x, before)


def shares(count: int, side: int, low: float, high: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Share of the area and ratio of ``count`` boxes."""
    top, left, tall, wide = _boxes(count, side, side, low, high, torch.device("cpu"))
    for start, size in ((top, tall), (left, wide)):
        assert float(start.min()) >= 0
        assert float((start + size).max()) <= side
        assert torch.equal(start, start.round())
    return tall * wide / side**2, wide / tall


def test_boxes_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    area, ratio = shares(4000, 224, 0.08, 1)
    assert float(area.min()) >= 0.075
    assert float(ratio.min()) >= 0.74
    assert float(ratio.max()) <= 1.35
    theirs = v2.RandomResizedCrop(224, (0.08, 1))
    image = torch.zeros(1, 224, 224)
    drawn = [theirs.make_params([image]) for _ in range(4000)]
    areas = torch.tensor([d["height"] * d["width"] / 224**2 for d in drawn])
    ratios = torch.tensor([d["width"] / d["height"] for d in drawn])
    middle = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    torch.testing.assert_close(area.quantile(middle), areas.quantile(middle), atol=0.03, rtol=0)
    torch.testing.assert_close(ratio.quantile(middle), ratios.quantile(middle), atol=0.03, rtol=0)


def test_boxes_lie_everywhere():
    torch.manual_seed(0)
    top, left, tall, wide = _boxes(4000, 60, 60, 0.2, 0.3, torch.device("cpu"))
    for start, size in ((top, tall), (left, wide)):
        place = start / (60 - size)
        assert float(place.min()) == 0
        assert float(place.max()) == 1
        assert float(place.mean()) == pytest.approx(0.5, abs=0.03)


def test_the_whole_area_is_the_identity():
    x = noise(50)
    torch.manual_seed(0)
    assert torch.equal(Augment(resized_crop=(1, 1)).geometric(x), x)


def test_a_box_of_a_long_image_that_never_fits_is_the_largest_in_the_middle():
    for size, wanted in (((10, 40), (0, 13, 10, 13)), ((40, 10), (13, 0, 13, 10))):
        boxes = torch.stack(_boxes(5, *size, 1, 1, torch.device("cpu"))).T.tolist()
        assert boxes == [[*map(float, wanted)]] * 5


def test_floats_stay_floats_and_every_image_has_a_box_of_its_own():
    x = torch.rand(1, 3, 16, 16).expand(100, -1, -1, -1)
    torch.manual_seed(0)
    crops = Augment(resized_crop=(0.1, 0.5)).geometric(x)
    assert crops.dtype == torch.float32
    assert len({crop.numpy().tobytes() for crop in crops}) > 90
    assert 0 <= float(crops.min()) <= float(crops.max()) <= 1


@pytest.mark.parametrize("size", [1, 2, 3])
def test_tiny_images_are_taken(size):
    assert resized_crop(noise(9, size, size), 0.05, 1).shape == (9, 3, size, size)


def test_impossible_crops_are_refused():
    with pytest.raises(UserError, match=r"^resized_crop: got .* crop_padding.*augment.crop_padding=0"):
        build(Augment, {"resized_crop": [0.08, 1], "crop_padding": 4})
    for wrong in ([0.5, 0.2], [0, 1], [0.5, 1.5], [0.5], 0.5, [0.2, 0.5, 1]):
        with pytest.raises(UserError, match="resized_crop"):
            build(Augment, {"resized_crop": wrong})
