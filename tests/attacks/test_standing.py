"""Rows of a batch, padded, and back."""

import pytest
import torch

from inure.attacks.standing import Standing
from inure.attacks.targeted import Toward
from inure.losses import cross_entropy, targeted_margin
from inure.noise import CounterNoise, GeneratorNoise
from inure.threat import Linf


def mask_of(size: int, *rows: int) -> torch.Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[list(rows)] = True
    return mask


def test_the_rows_that_stand_are_picked_in_order():
    left = Standing(mask_of(80, 3, 50, 7))
    assert left.size == 3
    assert left.rows.tolist() == [3, 7, 50]
    assert left.smaller
    x = torch.randn(80, 2, 3)
    found, other = left.of(x, torch.arange(80))
    assert torch.equal(found, x[[3, 7, 50]])
    assert other.tolist() == [3, 7, 50]
    assert not Standing(torch.ones(50, dtype=torch.bool)).smaller


def test_a_single_row_comes_twice_where_the_batch_has_two():
    left = Standing(mask_of(80, 50))
    assert (left.size, left.rows.tolist(), left.smaller) == (1, [50, 50], True)
    assert not Standing(torch.tensor([True]).expand(1)).smaller
    assert not Standing(mask_of(2, 1), real=2).smaller


def test_nobody_may_stand():
    left = Standing(mask_of(40))
    assert (left.size, len(left.rows)) == (0, 0)
    assert Standing(mask_of(40, 5, 6), real=5).size == 0


def test_the_copy_of_a_single_row_does_not_stand_by_itself():
    first = Standing(mask_of(100, 8))
    everyone = Standing(torch.ones(2, dtype=torch.bool), first.size)
    assert everyone.size == 1
    assert not everyone.smaller
    assert everyone.of(torch.tensor([8, 8]))[0].tolist() == [8, 8]


def test_put_changes_the_rows_that_stand_and_no_others():
    left, whole = Standing(mask_of(40, 1, 30)), torch.zeros(40, 2)
    part = torch.arange(4.0).view(2, 2)
    found = left.put(whole, part)
    assert not whole.any()
    assert found[1].tolist() == [0, 1]
    assert found[30].tolist() == [2, 3]
    assert found.sum() == 6
    single = Standing(mask_of(40, 5))
    assert single.put(whole, torch.tensor([[1.0, 2], [8, 9]])).sum() == 3  # what the copy did is dropped


def test_radii_and_losses_per_example_go_with_their_rows():
    left = Standing(mask_of(40, 1, 30))
    assert left.threat(Linf(epsilon=0.1)) == Linf(epsilon=0.1)
    radii = left.threat(Linf().with_epsilon(torch.arange(40) / 40)).epsilon
    assert torch.equal(radii, torch.arange(40)[left.rows] / 40)
    assert left.loss(cross_entropy) is cross_entropy
    assert torch.equal(left.loss(Toward(targeted_margin, torch.arange(40))).target, left.rows)


@pytest.mark.parametrize("draw", ["uniform", "normal"])
def test_rows_draw_what_they_would_draw_in_the_whole_batch(draw):
    left, like = Standing(mask_of(40, 4, 6, 33)), torch.zeros(40, 3, 2, 2)
    index = torch.arange(40) + 9
    whole = getattr(CounterNoise(1, index), draw)(like)
    part = getattr(left.noise(CounterNoise(1, index)), draw)(like[left.rows])
    assert torch.equal(part, whole[left.rows])
    single = Standing(mask_of(40, 5))
    generated = getattr(single.noise(GeneratorNoise()), draw)(like[single.rows])
    assert torch.equal(generated[0], generated[1])
