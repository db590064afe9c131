"""Rows of a batch, padded, and back."""

import pytest
import torch

from inure.attacks import standing
from inure.attacks.standing import Standing, bucket
from inure.attacks.targeted import Toward
from inure.losses import cross_entropy, targeted_margin
from inure.noise import CounterNoise, GeneratorNoise
from inure.threat import Linf


def mask_of(size: int, *rows: int) -> torch.Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[list(rows)] = True
    return mask


@pytest.mark.parametrize(("size", "padded"), [(1, 32), (32, 32), (33, 64), (64, 64), (65, 128), (1000, 1024)])
def test_a_bucket_is_the_next_power_of_two(size, padded):
    assert bucket(size) == padded


def test_the_last_row_that_stands_is_repeated_up_to_the_bucket():
    left = Standing(mask_of(80, 3, 50, 7))
    assert left.size == 3
    assert left.rows.tolist() == [3, 7] + [50] * 30
    assert left.smaller
    x = torch.randn(80, 2, 3)
    found, other = left.of(x, torch.arange(80))
    assert torch.equal(found[:3], x[[3, 7, 50]])
    assert other.tolist() == left.rows.tolist()


def test_a_small_batch_is_not_made_larger():
    left = Standing(mask_of(10, 2, 5))
    assert (left.size, left.smaller, len(left.rows)) == (2, False, 10)
    left = Standing(mask_of(50, *range(40)))
    assert (left.size, left.smaller, len(left.rows)) == (40, False, 50)


def test_nobody_may_stand():
    left = Standing(mask_of(40))
    assert (left.size, len(left.rows)) == (0, 0)
    assert Standing(mask_of(40, 5, 6), real=5).size == 0


def test_copies_of_an_earlier_padding_do_not_stand_again():
    first = Standing(mask_of(100, *range(0, 80, 2)))
    assert (first.size, len(first.rows)) == (40, 64)
    everyone = Standing(torch.ones(64, dtype=torch.bool), first.size)
    assert everyone.size == 40
    (numbers,) = first.of(torch.arange(100))
    second = Standing(numbers >= 60, first.size)
    assert second.size == 10
    assert second.of(numbers)[0].unique().tolist() == list(range(60, 80, 2))


def test_put_changes_the_rows_that_stand_and_no_others():
    left, whole = Standing(mask_of(40, 1, 30)), torch.zeros(40, 2)
    part = torch.arange(64.0).view(32, 2)
    part[2:] = -1  # what copies did is dropped
    found = left.put(whole, part)
    assert not whole.any()
    assert found[1].tolist() == [0, 1]
    assert found[30].tolist() == [2, 3]
    assert found.sum() == 6


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
    generated = getattr(left.noise(GeneratorNoise()), draw)(like[left.rows])
    assert torch.equal(generated[2], generated[-1])
    assert not torch.equal(generated[0], generated[1])


def test_the_least_size_is_that_of_the_padding_of_verdicts():
    from inure.evaluation.verdicts import PADDING, padded_size

    assert standing.LEAST == PADDING
    assert all(bucket(size) == padded_size(size) for size in range(1, 300))
