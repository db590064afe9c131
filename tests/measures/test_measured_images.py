"""The images that measures look at."""

import torch

from inure.data import ImageSet
from inure.measures import Probe
from inure.methods import PGDAT, Standard
from inure.recipe.recipe import Recipe
from tiny import tiny_net


def probe(method) -> Probe:
    pixels = torch.randint(256, (20, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = ImageSet.from_arrays(pixels, torch.arange(20) % 4)
    return Probe(tiny_net(), images, Recipe(method=method), method, 0.5, torch.device("cpu"), {})


def test_a_probe_gives_the_same_balanced_images_and_noise_each_time():
    about = probe(PGDAT())
    (batch, noise), (again, same) = about.batch(8), about.batch(8)
    assert batch.y.bincount().tolist() == [2] * 4
    assert torch.equal(batch.x, again.x)
    assert torch.equal(batch.x, about.images.batch(batch.index).float() / 255)
    assert torch.equal(noise.uniform(batch.x), same.uniform(again.x))
    assert len(about.batch(100)[0].x) == 20


def test_attacked_images_are_the_same_each_time_and_clean_ones_without_an_attack():
    about = probe(PGDAT())
    batch, noise = about.batch(8)
    x_adv = about.attacked(batch, noise)
    assert torch.equal(x_adv, about.attacked(*about.batch(8)))
    assert 0 < (x_adv - batch.x).abs().max() <= 8 / 255 + 1e-6
    clean = probe(Standard())
    assert torch.equal(clean.attacked(*clean.batch(8)), clean.batch(8)[0].x)
