"""The images that measures look at."""

import torch

from inure.data import ImageSet
from inure.measures import Probe, balanced_order


def test_the_first_images_hold_the_classes_equally_as_far_as_there_are_enough():
    labels = torch.tensor([0] * 50 + [1] * 3 + [2] * 20)[torch.randperm(73)]
    order = balanced_order(labels)
    assert sorted(order.tolist()) == [*range(73)]
    for turns in range(1, 4):
        assert torch.bincount(labels[order[: 3 * turns]]).tolist() == [turns] * 3
    assert torch.bincount(labels[order[:43]]).tolist() == [20, 3, 20]
    assert (labels[order[43:]] == 0).all()


def test_a_probe_gives_the_same_images_and_noise_each_time():
    images = ImageSet.from_arrays(torch.randint(256, (10, 1, 4, 4), dtype=torch.uint8), torch.arange(10) % 2)
    probe = Probe(torch.nn.Identity(), images, None, torch.device("cpu"), {})
    x, y, noise = probe.batch(4)
    again = probe.batch(100)
    assert torch.equal(x, again[0][:4])
    assert torch.equal(x, images.batch(torch.arange(4)).float() / 255)
    assert y.tolist() == [0, 1, 0, 1]
    assert torch.equal(noise.uniform(x), probe.batch(4)[2].uniform(x))
