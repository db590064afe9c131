import numpy as np
import pytest
import torch

from inure.data import Augment, RandAugment
from inure.data.image_operations import OPERATIONS
from inure.settings.config import build, dump
from inure.settings.errors import UserError


def noise(batch: int, channels: int = 3, size: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, channels, size, size), dtype=torch.uint8, generator=generator)


def slow_rand_augment(x: torch.Tensor, settings: RandAugment) -> torch.Tensor:
    """One image at a time, from the same draws."""
    names = list(OPERATIONS)
    for _ in range(settings.layers):
        kinds = torch.randint(len(names), (len(x),))
        chances = torch.rand(len(x))
        magnitudes = settings.magnitude + settings.magnitude_std * torch.randn(len(x), dtype=torch.float64)
        signs = 1 - 2 * torch.randint(2, (len(x),))
        images = []
        for image, kind, chance, magnitude, sign in zip(x, kinds, chances, magnitudes, signs, strict=True):
            if chance < settings.probability:
                operation = OPERATIONS[names[kind]]
                level = torch.tensor([min(max(float(magnitude), 0), 10) / 10], dtype=torch.float64)
                image = operation.apply(image[None], operation.strength(level, sign[None]).float())[0]
            images.append(image)
        x = torch.stack(images)
    return x


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("options", [{}, {"layers": 3, "probability": 1}, {"magnitude": 5, "magnitude_std": 5}])
def test_rand_augment_equals_the_slow_version(options, channels):
    x, augment = noise(60, channels), RandAugment(**options)
    before = x.clone()
    torch.manual_seed(3)
    fast = augment(x)
    torch.manual_seed(3)
    assert torch.equal(fast, slow_rand_augment(x, augment))
    assert fast.dtype == torch.uint8
    assert torch.equal(x, before)
    assert not torch.equal(fast, x)


def test_every_image_draws_an_operation_and_a_strength_of_its_own():
    x = noise(1).expand(1500, -1, -1, -1)
    torch.manual_seed(0)
    changed = RandAugment(layers=1, probability=1)(x)
    different = {image.numpy().tobytes() for image in changed}
    # 12 operations have a strength; of the steps of posterize and the like only a few are met
    assert 600 < len(different) < 1500
    for operation, share in (("invert", 1 / 15), ("equalize", 1 / 15), ("auto_contrast", 1 / 15)):
        wanted = OPERATIONS[operation].apply(x[:1], torch.zeros(1))
        assert float((changed == wanted).flatten(1).all(1).float().mean()) == pytest.approx(share, abs=0.03)


def test_probability_says_how_many_are_changed():
    x = noise(2000, size=4)
    torch.manual_seed(0)
    for layers, probability in ((1, 0.5), (2, 0.5), (1, 0.1)):
        kept = (RandAugment(layers=layers, probability=probability)(x) == x).flatten(1).all(1).float().mean()
        assert float(kept) == pytest.approx((1 - probability) ** layers, abs=0.04)
    assert torch.equal(RandAugment(probability=0)(x), x)


def test_magnitude_zero_leaves_only_what_has_no_strength():
    x = noise(600)
    torch.manual_seed(0)
    changed = RandAugment(layers=1, magnitude=0, magnitude_std=0, probability=1)(x)
    kinds = [OPERATIONS[name].apply(x, torch.zeros(len(x))) for name in ("auto_contrast", "equalize", "invert")]
    kinds += [x, OPERATIONS["posterize"].apply(x, torch.full((len(x),), 4.0))]
    known = torch.stack([(changed == kind).flatten(1).all(1) for kind in kinds]).any(0)
    assert known.all()


def test_manual_seed_covers_every_draw():
    results = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        np.random.seed(None)
        results.append(Augment(resized_crop=(0.2, 1), flip=True, rand_augment=RandAugment()).geometric(noise(20)))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_rand_augment_comes_after_crop_and_flip():
    x, augment = noise(30), RandAugment()
    torch.manual_seed(2)
    together = Augment(resized_crop=(0.3, 0.6), flip=True, rand_augment=augment).geometric(x)
    torch.manual_seed(2)
    assert torch.equal(together, augment(Augment(resized_crop=(0.3, 0.6), flip=True).geometric(x)))


@pytest.mark.parametrize("x", [torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, 4, dtype=torch.uint8)])
def test_other_images_are_refused(x):
    with pytest.raises(UserError, match="augment.rand_augment: got images of"):
        RandAugment()(x)


def test_settings_round_trip_and_are_checked():
    augment = build(Augment, {"rand_augment": {"magnitude": 7}, "resized_crop": [0.08, 1]})
    assert augment.rand_augment == RandAugment(layers=2, magnitude=7, magnitude_std=0.5, probability=0.5)
    assert augment.resized_crop == (0.08, 1)
    assert build(Augment, dump(augment)) == augment
    for wrong in ({"layers": 0}, {"magnitude": 11}, {"magnitude_std": -1}, {"probability": 2}, {"fill": 0}):
        with pytest.raises(UserError, match=f"rand_augment.{next(iter(wrong))}"):
            build(Augment, {"rand_augment": wrong})
