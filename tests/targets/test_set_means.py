"""Means over sets: exact, and with intervals that are as wide as the images allow."""

import pytest
import torch

from inure.evaluation.intervals import wilson
from inure.targets.set_means import SetOutcomes, mean_accuracies, mean_interval


def drawn(share: float, size: int, seed: int) -> torch.Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed)) < share


def test_of_one_set_the_interval_is_wilsons():
    right = drawn(0.7, 200, 0)
    mean, interval = mean_interval([("a", right)])
    assert mean == int(right.sum()) / 200
    assert interval == pytest.approx(wilson(int(right.sum()), 200))


def test_the_same_images_again_tell_nothing_new():
    right = drawn(0.7, 200, 0)
    assert mean_interval([("a", right)] * 5)[1] == pytest.approx(mean_interval([("a", right)])[1])


def test_other_images_tell_as_much_as_one_set_of_all_of_them():
    right = drawn(0.7, 200, 0)
    interval = mean_interval([(place, right) for place in range(5)])[1]
    assert interval == pytest.approx(wilson(5 * int(right.sum()), 1000))


def test_sets_of_any_size_count_once():
    mean, (low, high) = mean_interval([("a", torch.ones(10).bool()), ("b", torch.zeros(1000).bool())])
    assert mean == 0.5
    assert low < 0.5 < high


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_nothing_is_no_certainty(share):
    right = torch.full((20,), bool(share))
    mean, interval = mean_interval([("a", right), ("a", right)])
    assert mean == share
    assert interval == pytest.approx(wilson(20 * share, 20))


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """Of each image an own difficulty, the same in three sets; 95 % within binomial noise of 400 draws."""
    generator, hits, draws = torch.Generator().manual_seed(0), 0, 400
    shifts = torch.tensor([0.2, 0.0, -0.2])
    for _ in range(draws):
        ease = torch.rand(100, generator=generator)
        rights = [("a", torch.rand(100, generator=generator) < (ease + shift).clamp(0, 1)) for shift in shifts]
        low, high = mean_interval(rights)[1]
        # E[clamp(U + s, 0, 1)] is 0.5 + s - s|s| / 2, whose mean over s = -0.2, 0, 0.2 is 0.5
        hits += low < 0.5 < high
    assert 0.92 < hits / draws < 0.98


def test_a_mean_is_no_rounding_error_below_itself():
    rights = [("a", torch.arange(50) < count) for count in (44, 43, 45, 44, 44)]
    assert mean_interval(rights)[0] == 0.88


def test_robust_means_are_for_sets_that_were_all_attacked():
    index = torch.arange(4)
    clean, robust = torch.tensor([1, 1, 1, 0]).bool(), torch.tensor([1, 0, 0, 0]).bool()
    attacked, not_attacked = SetOutcomes("a", index, clean, robust), SetOutcomes("b", index, clean, None)
    assert mean_accuracies([attacked])["robust_accuracy"] == 0.25
    assert mean_accuracies([attacked, not_attacked])["robust_accuracy"] is None
    assert mean_accuracies([attacked, not_attacked])["clean_accuracy"] == 0.75
