"""REAT's weights: golden values, closed forms of the effective number, and classes that nothing is predicted as."""

import pytest
import torch

from inure.balance import Rebalanced
from inure.balance.rebalanced import effective_numbers

CIFAR10_LT50 = [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100]


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_first_weights_are_those_of_the_official_code_on_cifar10_lt():
    counts = numbers(*CIFAR10_LT50)
    golden = numbers(0.0715, 0.1104, 0.1705, 0.2633, 0.4069, 0.6288, 0.9703, 1.4996, 2.316, 3.563)
    for rebalanced in (Rebalanced(), Rebalanced(faithful=True)):
        weights = rebalanced.weights(counts, counts)
        assert torch.allclose(weights, golden, rtol=1e-3)
        assert weights.mean() == pytest.approx(1, abs=1e-12)
    inverse = 1 / counts
    assert torch.allclose(weights, inverse / inverse.mean(), rtol=3e-3)


def test_the_effective_number_is_the_sum_of_its_series():
    """(1 - b^m) / (1 - b) = 1 + b + ... + b^(m - 1)."""
    for n in (1, 2, 7, 100):
        for m in (0, 1, 2, 3, 50, 400):
            beta = (n - 1) / n
            expected = sum(beta**k for k in range(m))
            assert effective_numbers(numbers(n), numbers(m)).item() == pytest.approx(expected, rel=1e-12, abs=0)


def test_the_effective_number_is_1_for_one_prediction_grows_and_never_exceeds_n():
    counts = numbers(*CIFAR10_LT50, 1, 2**24, 1e9)
    assert torch.allclose(effective_numbers(counts, torch.ones_like(counts)), torch.ones_like(counts), rtol=1e-12)
    before = torch.zeros_like(counts)
    for m in (1, 2, 10, 100, 5000, 10**5, 10**8):
        now = effective_numbers(counts, torch.full_like(counts, m))
        assert (now >= before).all()
        assert (now <= counts).all()
        before = now


def test_dead_classes_leave_the_others_a_weight_unless_the_code_is_followed():
    counts = numbers(*CIFAR10_LT50)
    predicted = numbers(7000, 3500, 2000, 900, 400, 150, 40, 6, 0, 0)
    guarded = Rebalanced().weights(counts, predicted)
    assert guarded.mean() == pytest.approx(1, abs=1e-12)
    assert guarded.min() > 1e-5
    assert guarded[8:].tolist() == pytest.approx([guarded.max().item()] * 2)
    official = Rebalanced(faithful=True).weights(counts, predicted)
    assert official[8:].tolist() == pytest.approx([5, 5], rel=1e-4)
    assert official[:8].max() < 1e-5
    pairs = zip(CIFAR10_LT50, predicted.tolist(), strict=True)
    raw = [1 / ((1 - (1 - 1 / n) ** m) * n + 1e-5) for n, m in pairs]
    assert official.tolist() == pytest.approx([10 * w / sum(raw) for w in raw], rel=1e-6)


@pytest.mark.parametrize("rebalanced", [Rebalanced(), Rebalanced(faithful=True)])
def test_classes_of_one_image_or_none_are_guarded(rebalanced):
    weights = rebalanced.weights(numbers(10, 1, 1, 0), numbers(10, 3, 0, 0))
    assert weights.isfinite().all()
    assert weights[3] == 0
    assert weights[:3].sum() == pytest.approx(3)
    assert effective_numbers(numbers(1, 1), numbers(0, 4)).tolist() == [0, 1]
