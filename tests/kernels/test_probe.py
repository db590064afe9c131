"""The images of a probe: balanced, and the same whatever the order of the set."""

import torch

from inure.data import ImageSet
from inure.kernels import balanced_rows


def images(labels: list[int]) -> ImageSet:
    count = len(labels)
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1)
    return ImageSet.from_arrays(pixels, torch.tensor(labels), ("a", "b", "c"))


def test_every_class_has_as_many_images():
    about = images([0] * 20 + [1] * 5 + [2] * 9)
    rows = balanced_rows(about, 12)
    assert about.labels[rows].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert len(rows.unique()) == 12


def test_where_a_class_has_too_few_the_others_give_more():
    about = images([0] * 20 + [1] * 2 + [2] * 9)
    assert about.labels[balanced_rows(about, 12)].bincount().tolist() == [5, 2, 5]
    assert len(balanced_rows(about, 100)) == 31


def test_the_order_of_the_set_does_not_matter():
    about = images([0, 1, 2] * 10)
    mixed = about.subset(torch.randperm(30, generator=torch.Generator().manual_seed(1)))
    chosen, again = (one.index[balanced_rows(one, 7)] for one in (about, mixed))
    assert {*chosen.tolist()} == {*again.tolist()}
    assert chosen.tolist() != [*range(7)]  # nor simply the first
