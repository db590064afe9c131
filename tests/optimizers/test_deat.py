"""DEAT's update against an independent slow version and against the closed forms of its linear analysis."""

import copy
import io
import math

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from torch import Tensor, nn

from inure.averaging import EMA, SWA
from inure.optimizers import DEAT
from inure.perturbation import AWP
from inure.settings.errors import UserError
from tiny import tiny_batch, tiny_net

ROOT5 = math.sqrt(5)


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def gradients(steps: int, size: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(steps, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def path(optimizer: torch.optim.Optimizer, p: nn.Parameter, grads: Tensor) -> Tensor:
    """(T + 1, n): the parameter before the first and after every step."""
    points = [p.detach().clone()]
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
        points.append(p.detach().clone())
    return torch.stack(points)


def two_buffers(start: Tensor, grads: Tensor, lr: float, k1: float, k2: float, decay: float, coupled: bool) -> Tensor:
    """Positive-negative momentum as its authors describe it: two buffers whose roles swap with the step's parity."""
    buffers = [torch.zeros_like(start), torch.zeros_like(start)]
    w, points = start.clone(), [start.clone()]
    for t, g in enumerate(grads):
        if coupled:
            g = g + decay * w
        else:
            w = w - lr * decay * w
        positive, negative = t % 2, 1 - t % 2
        buffers[positive] = k2 * buffers[positive] + (1 - k2) * g
        direction = (1 + k1) * buffers[positive] - k1 * buffers[negative]
        w = w - lr / math.sqrt((1 + k1) ** 2 + k1**2) * direction
        points.append(w)
    return torch.stack(points)


@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize(("k1", "k2", "decay"), [(1.0, 0.81, 0.0), (0.5, 0.3, 0.1), (0.0, 0.9, 0.2), (2.0, 0.0, 0.1)])
def test_the_recursion_is_that_of_two_buffers(k1, k2, decay, coupled, foreach):
    p, grads = parameter(1, -2, 3), gradients(12)
    expected = two_buffers(p.detach(), grads, 0.3, k1, k2, decay, coupled)
    optimizer = DEAT([p], 0.3, k1, k2, decay, decoupled=not coupled, foreach=foreach)
    assert torch.allclose(path(optimizer, p, grads), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("decay", [0.0, 5e-4])
def test_with_both_constants_0_it_is_sgd_bit_for_bit(decay, foreach):
    ours, theirs, batch = tiny_net(), tiny_net(), tiny_batch()
    deat = DEAT(ours.parameters(), 0.1, 0.0, 0.0, decay, decoupled=False, foreach=foreach)
    sgd = torch.optim.SGD(theirs.parameters(), 0.1, weight_decay=decay)
    for _ in range(5):
        for net, optimizer in ((ours, deat), (theirs, sgd)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(batch.x), batch.y).backward()
            optimizer.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_all_at_once_and_one_by_one_are_equal_bit_for_bit_also_for_groups_of_several_types():
    paths = []
    for foreach in (True, False):
        torch.manual_seed(0)
        single = [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(4))]
        other = [nn.Parameter(torch.randn(5).double()), nn.Parameter(torch.randn(2).bfloat16())]
        groups = [{"params": single, "weight_decay": 0.1}, {"params": other, "lr": 0.01, "decoupled": False}]
        optimizer = DEAT(groups, 0.2, weight_decay=0.05, foreach=foreach)
        for _ in range(6):
            for p in (*single, *other):
                p.grad = torch.randn_like(p)
            optimizer.step()
        paths.append([p.detach().clone() for p in (*single, *other)])
    assert all(torch.equal(a, b) for a, b in zip(*paths, strict=True))


def test_groups_have_their_own_settings_and_a_changed_lr_counts_at_once():
    grads, rates = gradients(6), [0.1, 0.3, 0.0, 0.2, 0.2, 0.05]
    one, two = parameter(1, 2, 3), parameter(-1, 0, 1)
    optimizer = DEAT([{"params": [one], "k1": 0.0}, {"params": [two], "k2": 0.5}], 0.1)
    h = {0.81: [torch.zeros(3).double()] * 2, 0.5: [torch.zeros(3).double()] * 2}
    expected_one, expected_two = one.detach().clone(), two.detach().clone()
    for g, rate in zip(grads, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        one.grad, two.grad = g.clone(), g.clone()
        optimizer.step()
        for k2, past in h.items():
            h[k2] = [past[1], k2 * past[0] + (1 - k2) * g]
        expected_one -= rate * h[0.81][1]
        expected_two -= rate / ROOT5 * (2 * h[0.5][1] - h[0.5][0])
        assert torch.allclose(one, expected_one)
        assert torch.allclose(two, expected_two)


# What the averages do to gradients


@pytest.mark.parametrize("k1", [0.0, 0.5, 1.0, 3.0])
def test_the_moved_weights_follow_the_averages_alone(k1):
    """x_t = w_t + rate k1 h_(t-1): with a plus, where the paper has a minus, x takes steps of -rate h_t."""
    lr, k2, grads = 0.2, 0.7, gradients(30, 1)
    rate, p = lr / math.hypot(1 + k1, k1), parameter(2)
    w = path(DEAT([p], lr, k1, k2), p, grads)
    h = torch.zeros(32, 1).double()  # h[t + 2] is h_t
    for t, g in enumerate(grads):
        h[t + 2] = k2 * h[t] + (1 - k2) * g
    x = w + rate * k1 * h[1:]
    assert torch.allclose(x[1:] - x[:-1], -rate * h[2:], atol=1e-14)
    steps = x[1:] - x[:-1]
    assert torch.allclose(steps[2:], k2 * steps[:-2] - rate * (1 - k2) * grads[2:], atol=1e-14)
    if k1:
        papers = w - rate * k1 * h[1:]
        assert not torch.allclose(papers[1:] - papers[:-1], -rate * h[2:], atol=1e-3)


@pytest.mark.parametrize(("k1", "k2"), [(1.0, 0.81), (0.0, 0.81), (2.0, 0.5), (1.0, 0.0)])
@pytest.mark.parametrize("match_lr", [False, True])
def test_one_gradient_moves_the_weights_by_the_stated_sum_and_energy(k1, k2, match_lr):
    p, grads = parameter(0), torch.zeros(400, 1).double()
    grads[0] = 1
    moves = path(DEAT([p], 1.0, k1, k2, match_lr=match_lr), p, grads).diff(dim=0)[:, 0]
    divisor = math.sqrt((1 + k1) ** 2 + k1**2)
    assert float(-moves.sum()) == pytest.approx(1 if match_lr else 1 / divisor)
    energy = (1 - k2) / (1 + k2)
    assert float(moves.square().sum()) == pytest.approx(energy * divisor**2 if match_lr else energy)


@pytest.mark.parametrize(("k1", "match_lr", "expected"), [(1, False, 1 / ROOT5), (0, False, 1.0), (1, True, 1.0)])
def test_a_constant_gradient_ends_in_the_steps_of_a_smaller_rate(k1, match_lr, expected):
    p = parameter(0)
    moves = path(DEAT([p], 0.3, k1, match_lr=match_lr), p, torch.full((400, 1), 2.0).double()).diff(dim=0)
    assert float(-moves[-1]) == pytest.approx(0.3 * 2 * expected)
    if k1 and not match_lr:
        # From the start: (1 + k1) h_1 = 2 * 0.19, and the second average is as old as the first one is then
        assert float(-moves[0]) == pytest.approx(0.3 * 2 * 2 * 0.19 / ROOT5)
        assert float(-moves[1]) == pytest.approx(0.3 * 2 * 0.19 / ROOT5)


@pytest.mark.parametrize(("k1", "k2"), [(1.0, 0.81), (0.0, 0.81), (2.0, 0.5)])
def test_white_gradients_give_averages_that_differ_at_lag_1_and_the_stated_variances(k1, k2):
    chains, steps = 4000, 80
    p = nn.Parameter(torch.zeros(chains, dtype=torch.float64))
    optimizer = DEAT([p], 1.0, k1, k2)
    w = path(optimizer, p, gradients(steps, chains, seed=1))
    state = optimizer.state[p]
    last, before = state["h_last"], state["h_before"]
    energy = (1 - k2) / (1 + k2)
    assert float(last.var()) == pytest.approx(energy, rel=0.08)
    assert abs(float(torch.corrcoef(torch.stack([last, before]))[0, 1])) < 0.05
    earlier = last.clone()
    path(optimizer, p, gradients(2, chains, seed=2))
    assert float(torch.corrcoef(torch.stack([state["h_last"], earlier]))[0, 1]) == pytest.approx(k2, abs=0.05)
    # Divided by d: (1 - k2) / (1 + k2) of SGD's variance whatever k1, so no more noise than SGD
    assert float((w[-1] - w[-2]).var()) == pytest.approx(energy, rel=0.08)


# On quadratics


@pytest.mark.parametrize(("k1", "k2"), [(1.0, 0.81), (1.0, 0.3), (0.0, 0.81), (3.0, 0.5)])
def test_a_quadratic_is_stable_below_the_limit_and_not_above(k1, k2):
    limit = 2 * math.hypot(1 + k1, k1) / (1 + 2 * k1)
    if k1 == 1:
        assert limit == pytest.approx(1.4907, abs=1e-4)
    for factor, converges in ((0.97, True), (1.03, False)):
        p = parameter(1)
        optimizer = DEAT([p], limit * factor, k1, k2)
        for _ in range(3000):
            p.grad = p.detach().clone()  # curvature 1
            optimizer.step()
        # At k2 = 0.81 it shrinks or grows by 0.3 % a step
        assert abs(float(p.detach())) < 0.01 if converges else abs(float(p.detach())) > 100


@pytest.mark.parametrize(("steps", "lr"), [(0, 0.1), (3, 0.1), (10, 0.1)])
def test_pgd_at_on_a_quadratic_has_the_exact_variance_and_not_the_papers(steps, lr):
    """Loss A (w - x)^2 / 2, x ~ N(0, H), inner ascent by raw gradients: Var w = c H / (b (2 - c))."""
    curvature, data_variance, batch, chains = 1.0, 2.0, 4, 5000
    generator = torch.Generator().manual_seed(0)
    p = nn.Parameter(torch.zeros(chains, dtype=torch.float64))
    optimizer = DEAT([p], lr, 0.0, 0.0)
    for _ in range(120):
        x = data_variance**0.5 * torch.randn(batch, chains, dtype=torch.float64, generator=generator)
        for _ in range(steps):
            x = x.detach().requires_grad_()
            loss = 0.5 * curvature * (p.detach() - x).square().sum()
            x = x + lr * torch.autograd.grad(loss, x)[0]
        optimizer.zero_grad()
        (0.5 * curvature * (p - x.detach()).square().mean(0).sum()).backward()
        optimizer.step()
    c = lr * curvature * (1 + lr * curvature) ** steps
    found = float(p.detach().var())
    assert found == pytest.approx(c * data_variance / (batch * (2 - c)), rel=0.08)
    if steps:  # its correction for the inner steps has the other sign
        leading = lr * curvature * data_variance / (2 * batch)
        assert found > 1.5 * leading * (1 - (steps + 0.5) * lr * curvature)
        assert found > leading


def stationary_variance(lr: float, curvature: float = 1.0, **settings: float) -> float:
    """Of w under gradients curvature * w + N(0, 1). The update is linear in (w, h_last, h_before, noise)."""
    columns = []
    for unit in np.eye(4):
        p = parameter(unit[0])
        optimizer = DEAT([p], lr, **settings)
        optimizer.state[p] = {"h_last": torch.tensor([unit[1]]), "h_before": torch.tensor([unit[2]])}
        p.grad = curvature * p.detach() + unit[3]
        optimizer.step()
        state = optimizer.state[p]
        columns.append([float(p.detach()), float(state["h_last"]), float(state["h_before"])])
    matrix = np.array(columns).T
    return solve_discrete_lyapunov(matrix[:, :3], np.outer(matrix[:, 3], matrix[:, 3]))[0, 0]


def sgd_variance(lr: float) -> float:
    return lr / (2 - lr)


def test_the_stationary_variance_is_that_of_sgd_where_it_is_sgd():
    assert stationary_variance(0.3, k1=0.0, k2=0.0) == pytest.approx(sgd_variance(0.3))


@pytest.mark.parametrize(
    ("lr", "to_same_rate", "to_rate_over_root_5"),
    # Specification B.1.3, correction 4: solved there without this code
    [(1e-3, 0.447, 0.999), (0.01, 0.443, 0.993), (0.1, 0.408, 0.939), (0.3, 0.344, 0.843), (0.5, 0.294, 0.778)],
)
def test_on_a_quadratic_deat_has_less_variance_than_sgd_and_nearly_that_of_a_smaller_rate(
    lr, to_same_rate, to_rate_over_root_5
):
    variance = stationary_variance(lr)
    assert variance / sgd_variance(lr) == pytest.approx(to_same_rate, abs=6e-4)
    assert variance / sgd_variance(lr / ROOT5) == pytest.approx(to_rate_over_root_5, abs=6e-4)
    if lr <= 1e-3:
        assert variance / sgd_variance(lr) == pytest.approx(1 / ROOT5, rel=2e-3)


def test_the_lyapunov_solution_is_what_a_simulation_finds():
    p = nn.Parameter(torch.zeros(4000, dtype=torch.float64))
    optimizer = DEAT([p], 0.3)
    for noise in gradients(150, 4000, seed=3):
        p.grad = p.detach() + noise
        optimizer.step()
    assert float(p.detach().var()) == pytest.approx(stationary_variance(0.3), rel=0.08)


# As an optimizer of torch


@pytest.mark.parametrize("before", [4, 5])
def test_a_run_that_was_saved_and_loaded_continues_exactly_at_either_parity(before):
    grads = gradients(11).float()
    whole, first = (nn.Parameter(torch.ones(3)) for _ in range(2))
    expected = path(DEAT([whole], 0.3, weight_decay=0.1), whole, grads)
    optimizer = DEAT([first], 0.3, weight_decay=0.1)
    path(optimizer, first, grads[:before])
    file = io.BytesIO()
    torch.save({"p": first.detach(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    content = torch.load(file, weights_only=True)
    second = nn.Parameter(content["p"])
    other = DEAT([second], 0.1)
    other.load_state_dict(content["optimizer"])
    assert torch.equal(path(other, second, grads[before:]), expected[before:])
    # A resume that swapped the two would show
    swapped = nn.Parameter(content["p"].clone())
    third = DEAT([swapped], 0.1)
    third.load_state_dict(content["optimizer"])
    state = third.state[swapped]
    state["h_last"], state["h_before"] = state["h_before"], state["h_last"]
    assert not torch.allclose(path(third, swapped, grads[before:]), expected[before:])


def test_a_parameter_without_a_gradient_stands_still_and_keeps_its_averages():
    grads = gradients(8)
    steady, pausing = parameter(1, 2, 3), parameter(1, 2, 3)
    both = DEAT([steady, pausing], 0.3, weight_decay=0.1)
    for t, g in enumerate(grads):
        steady.grad = g.clone()
        pausing.grad = None if t in (2, 3, 5) else g.clone()
        stood = pausing.detach().clone()
        both.step()
        assert torch.equal(pausing, stood) == (pausing.grad is None)
    alone = parameter(1, 2, 3)
    kept = grads[[0, 1, 4, 6, 7]]
    assert torch.equal(path(DEAT([alone], 0.3, weight_decay=0.1), alone, kept)[-1], pausing)


def test_a_closure_is_called_with_gradients_on_and_its_loss_returned():
    p = parameter(3)
    optimizer = DEAT([p], 0.1, 0.0, 0.0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 9
    assert float(p.detach()) == pytest.approx(3 - 0.1 * 6)


def test_a_sparse_gradient_is_refused_in_one_line_before_anything_changes():
    dense, table = nn.Linear(2, 2), nn.Embedding(5, 2, sparse=True)
    optimizer = DEAT([*dense.parameters(), *table.parameters()], 0.1)
    (dense(torch.ones(1, 2)).sum() + table(torch.tensor([1])).sum()).backward()
    before = copy.deepcopy(dense.state_dict())
    with pytest.raises(UserError, match="grad: got a sparse gradient; allowed dense ones; try") as mistake:
        optimizer.step()
    assert "\n" not in str(mistake.value)
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())
    assert not optimizer.state


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"lr": -0.1}, "lr: got -0.1; allowed at least 0"),
        ({"lr": 0.1, "k1": -1}, "k1: got -1"),
        ({"lr": 0.1, "k2": 1.0}, "k2: got 1.0; allowed 0 <= k2 < 1"),
        ({"lr": 0.1, "weight_decay": -1}, "weight_decay: got -1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, line):
    with pytest.raises(UserError, match=line):
        DEAT([parameter(1)], **settings)


def test_a_step_that_grad_scaler_skips_moves_nothing_and_scaled_gradients_are_unscaled():
    scaled, plain = parameter(1, 2, 3), parameter(1, 2, 3)
    ours, theirs = DEAT([scaled], 0.1), DEAT([plain], 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for t, weights in enumerate(gradients(7)):
        loss = (scaled * (weights * math.inf if t == 3 else weights)).sum()
        ours.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(ours)
        scaler.update()
        if t != 3:
            plain.grad = weights.clone()
            theirs.step()
        assert torch.allclose(scaled, plain, atol=1e-12)
        assert torch.allclose(ours.state[scaled]["h_before"], theirs.state[plain]["h_before"], atol=1e-12)


def test_accumulated_gradients_are_one_step():
    once, twice = parameter(1, 2, 3), parameter(1, 2, 3)
    first, second = DEAT([once], 0.1), DEAT([twice], 0.1)
    for g in gradients(5):
        once.grad = g.clone()
        first.step()
        second.zero_grad()
        (0.5 * g * twice).sum().backward()
        (0.5 * g * twice).sum().backward()
        second.step()
    assert torch.allclose(once, twice)


def test_it_takes_the_gradient_of_perturbed_weights_and_is_averaged_as_any_other():
    net, batch = tiny_net(), tiny_batch()
    optimizer = DEAT(net.parameters(), 0.1)
    averagers = [EMA(decay=0.5, warmup=False).build(net), SWA(start=0).build(net)]
    sums = {name: torch.zeros_like(p) for name, p in net.named_parameters()}

    def backward() -> None:
        nn.functional.cross_entropy(net(batch.x), batch.y).backward()

    for _ in range(3):
        optimizer.zero_grad()
        before = copy.deepcopy(net.state_dict())
        with AWP(gamma=0.05).active(net, backward):
            backward()
        assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
        optimizer.step()
        for averager in averagers:
            averager.update(net, 0.5)
        for name, p in net.named_parameters():
            sums[name] += p.detach()
    for name, p in averagers[1].module.named_parameters():
        assert torch.allclose(p, sums[name] / 3, atol=1e-6), name


def test_schedulers_of_torch_work():
    p = parameter(1)
    optimizer = DEAT([p], 0.4, 0.0, 0.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    moves = []
    for _ in range(3):
        p.grad = torch.ones_like(p)
        stood = float(p.detach())
        optimizer.step()
        scheduler.step()
        moves.append(stood - float(p.detach()))
    assert moves == pytest.approx([0.4, 0.2, 0.1])
