"""Sets by name: what a SPEC stands for, and images that are corrupted once, when they are needed."""

from dataclasses import replace

import pytest
import torch

from inure.data import load
from inure.data.corruptions import CORRUPTIONS, corrupted
from inure.data.image_set import Lazy
from inure.data.named_sets import corruptions_of, find_sets
from inure.settings.errors import UserError


def test_a_star_is_every_corruption_at_every_severity():
    found = find_sets(["digits#test@*", "digits#train"], img_size=None, examples=7)
    assert len(found) == 76
    assert [(s.corruption, s.severity) for s in found[:75]] == [(k, n) for k in CORRUPTIONS for n in range(1, 6)]
    assert {s.base for s in found[:75]} == {"digits#test"}
    assert found[-1].corruption is None
    assert [len(found[place].load()) for place in (0, 40, 75)] == [7, 7, 7]


def test_published_corruptions_are_named_without_looking_at_them():
    """Also those beyond the 15, as CIFAR-10-C has them."""
    found = find_sets(["cifar10-c:DIR@*", "cifar10-c:DIR@speckle_noise:2"], img_size=None, examples=None)
    assert len(found) == 76
    assert found[-1].name == "cifar10-c:DIR@speckle_noise:2"
    assert (found[-1].base, found[-1].corruption, found[-1].severity) == ("cifar10-c:DIR", "speckle_noise", 2)
    assert {s.base for s in found} == {"cifar10-c:DIR"}
    with pytest.raises(UserError, match="no folder"):
        found[0].check()


def test_images_on_demand_are_those_corrupted_at_once_and_made_once():
    digits = load("digits", "test").subset(torch.tensor([5, 3, 9, 100, 2]))
    asked = []

    def counting(rows):
        asked.extend(rows.tolist())
        return digits.batch(rows)

    named = {(s.corruption, s.severity): s for s in corruptions_of(digits)}["glass_blur", 4]
    expected = corrupted(digits, "glass_blur", 4)
    images = named.load()
    assert (images.name, images.hash) == (expected.name, expected.hash)
    assert torch.equal(images.index, digits.index)
    assert torch.equal(images.batch(torch.tensor([4, 0, 0])), expected.batch(torch.tensor([4, 0, 0])))
    assert torch.equal(images.batch(torch.arange(5)), expected.batch(torch.arange(5)))
    assert torch.equal(images.subset(torch.tensor([3, 1])).batch(torch.tensor([1])), expected.batch(torch.tensor([1])))
    lazy = replace(digits, pixels=Lazy(counting, torch.arange(5)))
    from inure.data.named_sets import _on_demand

    assert torch.equal(_on_demand(lazy, "fog", 1).batch(torch.arange(5)), corrupted(digits, "fog", 1).batch(
        torch.arange(5)
    ))  # fmt: skip
    assert asked == [0, 1, 2, 3, 4]


def test_a_remembered_image_is_not_made_again(monkeypatch):
    from inure.data import corruptions

    calls = []
    real = corruptions.corrupt
    monkeypatch.setattr(
        corruptions, "corrupt", lambda images, *a, **k: calls.append(len(images)) or real(images, *a, **k)
    )
    images = corruptions_of(load("digits", "test").head(6))[0].load()
    for rows in ([0, 0, 1], [1, 0], [1, 2, 3], [0, 1, 2, 3]):
        images.batch(torch.tensor(rows))
    assert calls == [2, 2]


def test_images_too_small_are_refused_at_once():
    digits = load("digits", "test")
    tiny = replace(digits, pixels=digits.batch(torch.arange(len(digits)))[:, :, :4, :4], shape=(1, 4, 4))
    with pytest.raises(UserError, match="--data"):
        corruptions_of(tiny)
