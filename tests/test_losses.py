"""Per-example losses against scipy and plain numpy, in float64."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from torch import Tensor
from torch.nn.functional import one_hot

from inure.balance import CrossEntropy
from inure.losses import (
    boosted_cross_entropy,
    cross_entropy,
    dlr,
    hard,
    kl,
    margin,
    probability_of,
    targeted_dlr,
    targeted_margin,
)
from inure.settings.errors import UserError
from tiny import soft

LOGITS = 3 * torch.randn(16, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.randint(4, (16,), generator=torch.Generator().manual_seed(1))
SOFT = soft(Y).double()
ONE_HOT = one_hot(Y, 4).double()
ROWS = np.arange(16)


def allclose(found: Tensor, expected: np.ndarray) -> None:
    assert found.shape == (16,)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_minus_the_mean_log_probability_of_the_smoothed_label(smoothing):
    log_probs = log_softmax(LOGITS.numpy(), axis=1)
    for y, target in ((Y, ONE_HOT), (SOFT, SOFT)):
        smoothed = (1 - smoothing) * target.numpy() + smoothing / 4
        allclose(cross_entropy(LOGITS, y, smoothing), -(smoothed * log_probs).sum(1))
        assert torch.equal(CrossEntropy(label_smoothing=smoothing)(LOGITS, y), cross_entropy(LOGITS, y, smoothing))


def test_kl_is_relative_entropy_from_prediction_to_target():
    target = torch.randn(16, 4, dtype=torch.float64)
    expected = rel_entr(softmax(target.numpy(), axis=1), softmax(LOGITS.numpy(), axis=1)).sum(1)
    found = kl(LOGITS, target.log_softmax(1))
    allclose(found, expected)
    assert found.min() > 0
    assert kl(LOGITS, LOGITS.log_softmax(1)).abs().max() < 1e-15


def test_gradients_of_kl_flow_through_both_arguments():
    logits, target = LOGITS.clone().requires_grad_(), torch.randn(16, 4, dtype=torch.float64).requires_grad_()
    kl(logits, target.log_softmax(1)).sum().backward()
    assert logits.grad is not None
    assert target.grad is not None
    p, q = target.detach().softmax(1), LOGITS.softmax(1)
    assert torch.allclose(logits.grad, q - p)
    ratio = (p / q).log()
    assert torch.allclose(target.grad, p * (ratio - (p * ratio).sum(1, keepdim=True)))


def test_margin_is_the_best_wrong_logit_minus_the_right_one_up_to_kappa():
    z = LOGITS.numpy()
    wrong = np.where(ONE_HOT.numpy() == 1, -np.inf, z).max(1)
    expected = wrong - z[ROWS, Y.numpy()]
    assert expected.max() > 1
    for y in (Y, SOFT):
        allclose(margin(LOGITS, y), expected)
        allclose(margin(LOGITS, y, kappa=1.0), np.minimum(expected, 1.0))
    assert torch.equal(margin(LOGITS, Y) > 0, LOGITS.argmax(1) != Y)


def test_margin_stops_climbing_past_kappa():
    logits = LOGITS.clone().requires_grad_()
    values = margin(logits, Y, kappa=0.5)
    (grad,) = torch.autograd.grad(values.sum(), logits)
    assert torch.equal(grad.abs().sum(1) == 0, values == 0.5)
    assert (values == 0.5).any()


TARGET = (Y + 1 + torch.arange(16) % 3) % 4


def toward(loss):
    return lambda logits, y: loss(logits, y, TARGET[: len(logits)])


def test_the_difference_of_logits_ratio_compares_the_margin_with_that_of_the_third_class():
    z, y = LOGITS.numpy(), Y.numpy()
    expected, aimed, plain = np.zeros(16), np.zeros(16), np.zeros(16)
    for i, row in enumerate(z):
        first, _, third, fourth = sorted(row, reverse=True)
        t = TARGET[i]
        expected[i] = (max(np.delete(row, y[i])) - row[y[i]]) / (first - third + 1e-12)
        plain[i] = row[t] - row[y[i]]
        aimed[i] = plain[i] / (first - (third + fourth) / 2 + 1e-12)
    for labels in (Y, SOFT):
        allclose(dlr(LOGITS, labels), expected)
        allclose(targeted_dlr(LOGITS, labels, TARGET), aimed)
        allclose(targeted_margin(LOGITS, labels, TARGET), plain)
    assert torch.equal(dlr(LOGITS, Y) > 0, LOGITS.argmax(1) != Y)


@pytest.mark.parametrize("loss", [dlr, toward(targeted_dlr)])
def test_the_difference_of_logits_ratio_ignores_scale_and_shift(loss):
    for other in (7 * LOGITS, LOGITS + 30, 1e-3 * LOGITS):
        assert torch.allclose(loss(other, Y), loss(LOGITS, Y), rtol=1e-8)


@pytest.mark.parametrize("loss", [dlr, toward(targeted_dlr)])
@pytest.mark.parametrize("row", [[1.0] * 4, [5.0, 5, 5, -80], [0.0, 0, 0, 0], [1, 1 + 1e-7, 1, 1], [9.0, 1, 1, 1]])
def test_ties_give_finite_ratios_and_gradients_in_float32(loss, row):
    for label in range(4):
        logits = torch.tensor([row]).requires_grad_()
        values = loss(logits, torch.tensor([label]))
        (grad,) = torch.autograd.grad(values.sum(), logits)
        assert values.dtype == torch.float32
        assert values.isfinite().all()
        assert grad.isfinite().all()


def test_the_ratio_needs_three_classes_and_the_targeted_one_four():
    y = torch.zeros(2, dtype=torch.long)
    assert dlr(torch.randn(2, 3), y).shape == targeted_dlr(torch.randn(2, 4), y, y + 1).shape == (2,)
    for loss, arguments, least in ((dlr, (y,), 3), (targeted_dlr, (y, y + 1), 4)):
        message = f"got a net of {least - 1} classes; allowed at least {least} classes for {loss.__name__}; try margin"
        with pytest.raises(UserError, match=message) as caught:
            loss(torch.randn(2, least - 1), *arguments)
        assert "\n" not in str(caught.value)


def test_boosted_cross_entropy_adds_the_strongest_wrong_class():
    probs = softmax(LOGITS.numpy(), axis=1)
    strongest = np.where(ONE_HOT.numpy() == 1, 0, probs).max(1)
    for y, target in ((Y, ONE_HOT), (SOFT, SOFT)):
        expected = -(target.numpy() * np.log(probs)).sum(1) - np.log(1.0001 - strongest + 1e-12)
        allclose(boosted_cross_entropy(LOGITS, y), expected)


def test_losses_stay_finite_where_the_net_is_sure_and_wrong():
    logits = torch.tensor([[200.0, 0, 0], [0, 200.0, 0]])
    y = torch.tensor([1, 1])
    for loss in (cross_entropy, margin, boosted_cross_entropy, probability_of):
        assert loss(logits, y).isfinite().all()
    assert kl(logits, logits.flip(0).log_softmax(1)).isfinite().all()


def test_probability_of_a_label_is_its_softmax_and_the_mean_under_a_soft_label():
    probs = softmax(LOGITS.numpy(), axis=1)
    allclose(probability_of(LOGITS, Y), probs[ROWS, Y.numpy()])
    allclose(probability_of(LOGITS, SOFT), (probs * SOFT.numpy()).sum(1))


@pytest.mark.parametrize("loss", [cross_entropy, margin, dlr, boosted_cross_entropy, probability_of])
def test_a_one_hot_soft_label_is_the_hard_label(loss):
    assert torch.allclose(loss(LOGITS, ONE_HOT), loss(LOGITS, Y), rtol=1e-14, atol=1e-15)


def test_hard_takes_the_likeliest_class_of_a_soft_label_and_leaves_classes_alone():
    assert torch.equal(hard(SOFT), Y)
    assert hard(Y) is Y
