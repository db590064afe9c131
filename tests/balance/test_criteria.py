"""Criteria for imbalanced classes against loops over examples and classes, their limits, and soft labels."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from contracts import CRITERIA
from inure.balance import LDAM, Balance, BalancedSoftmax, ClassBalancedFocal, CrossEntropy, Rebalanced, RoBal, Weighted
from inure.types import Batch
from tiny import soft, tiny_batch

COUNTS = [50.0, 20, 7, 1]
criteria = pytest.mark.parametrize("criterion", CRITERIA, ids=lambda c: c.kind)


def batch_of(counts=COUNTS, *, predicted=None, progress=0.9, double=True) -> Batch:
    """A batch of a run whose classes have so many examples, in float64."""
    batch = tiny_batch(16, progress=progress, classes=len(counts))
    memory = {
        "class_counts": torch.tensor(counts, dtype=torch.float64),
        "counter.last": torch.tensor(predicted or counts, dtype=torch.float64),
    }
    return replace(batch, x=batch.x.double() if double else batch.x, memory=memory)


def logits_for(batch: Batch, scale: float = 3.0) -> Tensor:
    classes = len(batch.memory["class_counts"])
    draw = torch.Generator().manual_seed(1)
    return scale * torch.randn(len(batch.y), classes, generator=draw, dtype=batch.x.dtype)


def loss(criterion, batch: Batch, logits: Tensor, y: Tensor | None = None) -> Tensor:
    return Balance(train=criterion).train_at(batch)(logits, batch.y if y is None else y)


def slow_weights(beta: float, counts: list[float]) -> list[float]:
    raw = [1 / n if beta == 1 else (1 - beta) / (1 - beta**n) for n in counts]
    return [w * len(counts) / sum(raw) for w in raw]


def test_balanced_softmax_adds_tau_log_n():
    batch = batch_of()
    logits = logits_for(batch)
    for tau in (0.0, 1.0, 1.7):
        found = loss(BalancedSoftmax(tau=tau), batch, logits)
        for i, y in enumerate(batch.y.tolist()):
            shifted = [float(z) + tau * math.log(n) for z, n in zip(logits[i], COUNTS, strict=True)]
            assert found[i].item() == pytest.approx(math.log(sum(map(math.exp, shifted))) - shifted[y], rel=1e-12)


@pytest.mark.parametrize("criterion", [BalancedSoftmax(), BalancedSoftmax(tau=3), Weighted(), Rebalanced()])
def test_equal_counts_give_cross_entropy_bit_for_bit(criterion):
    batch = batch_of([13.0] * 4, double=False)
    logits = logits_for(batch)
    assert torch.equal(loss(criterion, batch, logits), CrossEntropy()(logits, batch.y))


@pytest.mark.parametrize(
    "criterion", [BalancedSoftmax(), Weighted(beta=1), Weighted(beta=0), RoBal(tau_m=0.3), LDAM(beta=1)]
)
def test_ten_times_the_images_change_nothing(criterion):
    batch, more = batch_of(), batch_of([10 * n for n in COUNTS])
    logits = logits_for(batch)
    assert torch.allclose(loss(criterion, batch, logits), loss(criterion, more, logits), rtol=1e-12, atol=0)


def test_the_gradient_of_balanced_softmax_is_the_adjusted_softmax_minus_the_label():
    batch = batch_of()
    logits = logits_for(batch).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(BalancedSoftmax(), batch, logits).sum(), logits)
    adjusted = (logits.detach() + torch.tensor(COUNTS).double().log()).softmax(1)
    assert torch.allclose(gradient, adjusted - one_hot(batch.y, 4), atol=1e-14)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.9999, 1.0])
def test_weights_follow_effective_numbers_and_have_mean_one(beta):
    batch = batch_of()
    logits = logits_for(batch)
    weights = torch.tensor(slow_weights(beta, COUNTS), dtype=torch.float64)
    assert weights.mean() == pytest.approx(1)
    expected = weights[batch.y] * cross_entropy(logits, batch.y, reduction="none")
    assert torch.allclose(loss(Weighted(beta=beta), batch, logits), expected, rtol=1e-9)


def test_beta_goes_from_no_weights_to_inverse_frequencies():
    batch = batch_of()
    logits = logits_for(batch)
    plain = cross_entropy(logits, batch.y, reduction="none")
    assert torch.equal(loss(Weighted(beta=0), batch, logits), plain)
    inverse = loss(Weighted(beta=1), batch, logits) / plain * torch.tensor(COUNTS).double()[batch.y]
    assert torch.allclose(inverse, inverse[:1].expand(16), rtol=1e-12)
    near = loss(Weighted(beta=1 - 1e-9), batch, logits)
    assert torch.allclose(near, loss(Weighted(beta=1), batch, logits), rtol=1e-6)


@pytest.mark.parametrize(
    "make", [lambda s: Weighted(beta=1, start=s), lambda s: LDAM(beta=1, start=s, max_margin=0, scale=1)]
)
def test_deferred_weights_begin_at_their_share_of_training(make):
    logits = logits_for(batch_of())
    plain = loss(CrossEntropy(), batch_of(), logits)
    for progress, on in ((0.0, False), (0.79, False), (0.8, True), (0.99, True)):
        found = loss(make(0.8), batch_of(progress=progress), logits)
        assert torch.equal(found, plain) != on
    assert torch.equal(loss(make(1.0), batch_of(progress=0.99), logits), plain)


def test_the_focal_loss_has_the_sums_of_its_formula():
    batch, weights = batch_of(), slow_weights(0.9999, COUNTS)
    logits = logits_for(batch)
    found = {form: loss(ClassBalancedFocal(form=form), batch, logits) for form in ("sigmoid", "softmax")}
    for i, y in enumerate(batch.y.tolist()):
        total = 0.0
        for k, z in enumerate(logits[i].tolist()):
            right = 1 / (1 + math.exp(-z if k == y else z))
            total -= (1 - right) ** 2 * math.log(right)
        assert found["sigmoid"][i].item() == pytest.approx(weights[y] * total, rel=1e-9)
        p = logits[i].softmax(0)[y].item()
        assert found["softmax"][i].item() == pytest.approx(-weights[y] * (1 - p) ** 2 * math.log(p), rel=1e-9)


def test_the_focal_loss_without_gamma_is_binary_or_plain_cross_entropy():
    batch = batch_of([5.0] * 4)
    logits = logits_for(batch)
    binary = binary_cross_entropy_with_logits(logits, one_hot(batch.y, 4).double(), reduction="none").sum(1)
    assert torch.allclose(loss(ClassBalancedFocal(gamma=0), batch, logits), binary)
    plain = cross_entropy(logits, batch.y, reduction="none")
    assert torch.allclose(loss(ClassBalancedFocal(gamma=0, form="softmax"), batch, logits), plain)


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_loss_has_a_gradient_where_the_net_is_certain(form, gamma):
    batch = batch_of(double=False)
    logits = logits_for(batch, scale=200).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(ClassBalancedFocal(form=form, gamma=gamma), batch, logits).sum(), logits)
    assert gradient.isfinite().all()


def test_ldam_takes_its_margin_from_the_label():
    batch, weights = batch_of(), slow_weights(0.9999, COUNTS)
    cosines = logits_for(batch).tanh()
    found = loss(LDAM(), batch, cosines)
    margins = [0.5 * (1 / n) ** 0.25 for n in COUNTS]  # the rarest class has one image
    for i, y in enumerate(batch.y.tolist()):
        moved = [30 * (float(z) - (margins[y] if k == y else 0)) for k, z in enumerate(cosines[i])]
        expected = weights[y] * (math.log(sum(math.exp(m - max(moved)) for m in moved)) + max(moved) - moved[y])
        assert found[i].item() == pytest.approx(expected, rel=1e-9)
    assert max(LDAM(max_margin=0.3).margins(torch.tensor(COUNTS)).tolist()) == pytest.approx(0.3)


def test_robal_has_margin_scale_and_prior():
    batch = batch_of()
    cosines = logits_for(batch).tanh()
    found = loss(RoBal(scale=8, margin=0.2, tau_m=0.3, tau_b=1.5), batch, cosines)
    for i, y in enumerate(batch.y.tolist()):
        margin = 0.3 / 8 * math.log(COUNTS[y] / min(COUNTS)) + 0.2
        moved = [
            8 * (float(z) - (margin if k == y else 0)) + 1.5 * math.log(n / sum(COUNTS))
            for k, (z, n) in enumerate(zip(cosines[i], COUNTS, strict=True))
        ]
        assert found[i].item() == pytest.approx(math.log(sum(map(math.exp, moved))) - moved[y], rel=1e-9)


def test_robal_without_its_terms_is_cross_entropy_and_with_a_prior_alone_balanced_softmax():
    batch = batch_of()
    logits = logits_for(batch)
    assert torch.equal(loss(RoBal(scale=1, margin=0, tau_b=0), batch, logits), loss(CrossEntropy(), batch, logits))
    assert torch.equal(loss(RoBal(scale=1, margin=0, tau_b=1), batch, logits), loss(BalancedSoftmax(), batch, logits))


@criteria
def test_one_hot_labels_give_what_hard_ones_do(criterion):
    batch = batch_of(predicted=[40.0, 30, 8, 0])
    logits = logits_for(batch).tanh()
    hard = loss(criterion, batch, logits)
    assert hard.shape == (16,)
    assert torch.allclose(loss(criterion, batch, logits, one_hot(batch.y, 4).double()), hard, rtol=1e-12)


@criteria
def test_soft_labels_give_something_between(criterion):
    batch = batch_of()
    logits, y = logits_for(batch).tanh(), soft(batch.y).double()
    found = loss(criterion, batch, logits, y)
    assert found.isfinite().all()
    other = loss(criterion, batch, logits, y.topk(2).indices[:, 1])
    assert not torch.allclose(found, loss(criterion, batch, logits))
    assert not torch.allclose(found, other)


@pytest.mark.parametrize("criterion", [Weighted(beta=0.9), Rebalanced()])
def test_a_soft_label_has_the_mean_weight_under_it(criterion):
    batch = batch_of()
    logits, y = logits_for(batch), soft(batch.y).double()
    plain = cross_entropy(logits, y, reduction="none")
    by_class = torch.stack(
        [loss(criterion, batch, logits, torch.full_like(batch.y, k)) for k in range(4)], 1
    ) / torch.stack([cross_entropy(logits, torch.full_like(batch.y, k), reduction="none") for k in range(4)], 1)
    assert torch.allclose(loss(criterion, batch, logits, y), (y * by_class).sum(1) * plain, rtol=1e-9)


@criteria
@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_a_class_without_examples_does_no_harm_and_the_counts_stay_as_they_are(criterion, labels):
    batch = batch_of([50.0, 20, 7, 0], predicted=[50.0, 27, 0, 0])
    y = batch.y % 3
    y = torch.cat([soft(y, classes=3).double(), torch.zeros(16, 1)], 1).double() if labels == "soft" else y
    logits = logits_for(batch).tanh().requires_grad_()
    before = {name: value.clone() for name, value in batch.memory.items()}
    found = loss(criterion, batch, logits, y)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert found.isfinite().all()
    assert gradient.isfinite().all()
    assert all(torch.equal(batch.memory[name], value) for name, value in before.items())


@criteria
@pytest.mark.parametrize("double", [False, True])
def test_a_criterion_keeps_the_precision_of_the_logits(criterion, double):
    batch = batch_of(double=double)
    logits = logits_for(batch).tanh()
    assert loss(criterion, batch, logits).dtype == logits.dtype
