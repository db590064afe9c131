"""Gradient noise against gradients of single examples that are written out by hand, and against a known law."""

import pytest
import torch
from torch import nn

from inure.measures.gradient_noise import gradient_noise, noise_of
from inure.settings.errors import UserError
from tiny import assert_same_state, state_of, tiny_batch, tiny_net


def example_gradients(weight, bias, x, y):
    """(N, K d + K): softmax regression's gradient of each example, (p - onehot(y)) [x, 1]."""
    surplus = (x @ weight.T + bias).softmax(1) - nn.functional.one_hot(y, len(bias))
    return torch.cat([(surplus[:, :, None] * x[:, None, :]).flatten(1), surplus], 1)


@pytest.fixture
def softmax():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    x, y = torch.rand(24, 3, 2, 2, dtype=torch.float64), torch.randint(3, (24,))
    return net, x, y, example_gradients(net[1].weight.detach(), net[1].bias.detach(), x.flatten(1), y)


def test_with_one_example_a_part_it_is_the_sample_covariance(softmax):
    net, x, y, gradients = softmax
    found = gradient_noise(net, x, y, micro_batches=24)
    trace = gradients.var(0).sum()
    assert float(found.trace) == pytest.approx(float(trace))
    squared = gradients.mean(0).square().sum() - trace / 24
    assert float(found.squared_norm) == pytest.approx(float(squared))
    assert float(found.scale) == pytest.approx(float(trace / squared))


def test_with_larger_parts_it_is_their_means_covariance_times_their_size(softmax):
    net, x, y, gradients = softmax
    found = gradient_noise(net, x, y, micro_batches=5)  # 4 each; four are left over
    means = gradients[:20].reshape(5, 4, -1).mean(1)
    assert float(found.trace) == pytest.approx(4 * float(means.var(0).sum()))
    assert float(found.squared_norm) == pytest.approx(float(means.mean(0).square().sum() - means.var(0).sum() / 5))


def test_another_criterion_is_used(softmax):
    net, x, y, gradients = softmax
    found = gradient_noise(net, x, y, lambda z, y: 3 * nn.functional.cross_entropy(z, y, reduction="none"),
                           micro_batches=24)  # fmt: skip
    assert float(found.trace) == pytest.approx(9 * float(gradients.var(0).sum()))


def test_both_estimates_are_unbiased():
    generator = torch.Generator().manual_seed(0)
    signal, deviation, size, count, repeats = (
        torch.tensor([0.3, -0.1, 0.0, 0.2]),
        torch.tensor([1, 0.5, 2, 0]),
        4,
        3,
        8000,
    )
    draws = signal + deviation * torch.randn(repeats, count, size, 4, generator=generator)
    found = [noise_of([(g[:3], g[3:]) for g in parts], size) for parts in draws.mean(2)]
    traces, norms = (torch.stack([getattr(one, name) for one in found]) for name in ("trace", "squared_norm"))
    assert float(traces.mean()) == pytest.approx(float(deviation.square().sum()), rel=0.03)
    error = float(norms.std()) / repeats**0.5
    bias = float(deviation.square().sum()) / (size * count)  # of the plain squared norm
    assert abs(float(norms.mean() - signal.square().sum())) < 3 * error < 0.2 * bias


def test_noise_beside_a_large_gradient_is_not_lost_to_rounding():
    generator = torch.Generator().manual_seed(0)
    small = 1e-3 * torch.randn(64, 1000, generator=generator)
    found = noise_of([(1000 + g,) for g in small], 1)
    exact = (1000 + small).double().var(0).sum()
    assert float(found.trace) == pytest.approx(float(exact), rel=0.05)


@pytest.mark.parametrize("mode", ["eval", "train_frozen_stats"])
@pytest.mark.parametrize("training", [True, False])
def test_net_gradients_mode_and_buffers_are_left_as_found(mode, training):
    net, batch = tiny_net().train(training), tiny_batch(12)
    net.net[1].eval()
    net.net[0].bias.requires_grad_(False)
    net.net[-1].weight.grad = torch.ones_like(net.net[-1].weight)
    before = state_of(net)
    with torch.no_grad():
        found = gradient_noise(net, batch.x, batch.y, micro_batches=3, mode=mode)
    assert_same_state(before, state_of(net))
    assert float(found.trace) > 0
    assert not found.trace.requires_grad


def test_examples_that_are_all_equal_have_no_noise():
    net, batch = tiny_net(), tiny_batch(1)
    found = gradient_noise(net, batch.x.expand(8, -1, -1, -1), batch.y.expand(8), micro_batches=4)
    assert float(found.trace) == pytest.approx(0, abs=1e-9)
    assert float(found.squared_norm) > 0


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"micro_batches": 1}, "micro_batches: got 1; allowed 2 to 8"),
        ({"micro_batches": 9}, "micro_batches: got 9"),
        ({"mode": "train"}, "mode: got train; allowed eval | train_frozen_stats"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, line):
    batch = tiny_batch(8)
    with pytest.raises(UserError) as mistake:
        gradient_noise(tiny_net(), batch.x, batch.y, **options)
    assert str(mistake.value).startswith(line)


def test_one_gradient_is_refused():
    with pytest.raises(UserError, match="at least 2 micro-batches"):
        noise_of([(torch.ones(2),)], 1)
