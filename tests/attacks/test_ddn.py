"""DDN on linear nets, where the least distance is known; test_second_opinion.py compares it with foolbox's."""

import pytest
import torch
from torch import nn

from closed_forms import worst_case
from inure.attacks import DDN, standing
from inure.evaluation.metered import Metered
from inure.noise import CounterNoise
from inure.settings.errors import UserError
from inure.threat import L2, Linf
from tiny import linear_net, tiny_batch, tiny_net

PIXELS = 48


def linear_problem(size: int = 6):
    weight, bias = torch.randn(2, PIXELS, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    net, x = linear_net(weight, bias), (1.2 * torch.rand(size, 3, 4, 4, dtype=torch.float64) - 0.1).clamp(0, 1)
    with torch.no_grad():
        logits = net(x)
    y = logits.argmax(1)
    return net, x, y, (weight[1 - y] - weight[y]).numpy(), (logits.amax(1) - logits.amin(1)).tolist()


def test_on_a_linear_net_the_least_distance_is_found():
    net, x, y, directions, gaps = linear_problem()
    x_adv = DDN().nearest(net, x, y)
    distance = L2().distance(x_adv, x)
    assert (net(x_adv).argmax(1) != y).all()
    for found, w, flat, gap in zip(distance.tolist(), directions, x.flatten(1).numpy(), gaps, strict=True):
        # A hundredth less would not reach the boundary, a hundredth more does
        assert worst_case(L2(epsilon=found * (1 - 1e-6)), w, flat) >= gap * (1 - 1e-6)
        assert worst_case(L2(epsilon=found / 1.05), w, flat) < gap


def test_points_beyond_epsilon_do_not_count():
    net, x, y, *_ = linear_problem(16)
    distance = L2().distance(DDN().nearest(net, x, y), x)
    for stop in (True, False):
        attack = DDN(threat=L2(epsilon=float(distance.median())), stop_at_epsilon=stop)
        x_adv = attack(net, x, y)
        fallen = net(x_adv).argmax(1) != y
        assert torch.equal(fallen, distance <= distance.median())
        assert torch.equal(x_adv[~fallen], x[~fallen])
        assert L2().distance(x_adv, x).max() <= distance.median()


def test_the_radius_shrinks_after_a_success_and_grows_after_a_failure():
    net, x, y, *_ = linear_problem()
    seen, right = [], []
    net.register_forward_hook(
        lambda _, arguments, logits: (seen.append(arguments[0].detach()), right.append(logits.argmax(1) == y))[0]
    )  # fmt: skip
    x, y = 0.4 + 0.2 * x, net(0.4 + 0.2 * x).argmax(1)
    seen.clear()
    right.clear()
    DDN(steps=12, first_radius=0.02, gamma=0.1, stop_at_epsilon=False)(net, x, y)
    radii = torch.stack([L2().distance(point, x) for point in seen])
    assert radii[0].max() == 0
    factor = torch.where(torch.stack(right), 1.1, 0.9).to(radii)
    torch.testing.assert_close(radii[1:], 0.02 * factor[:-1].cumprod(0), rtol=1e-9, atol=0)


def test_points_can_be_rounded_to_grey_levels():
    net, x, y, *_ = linear_problem()
    x = torch.round(255 * x) / 255
    y = net(x).argmax(1)
    x_adv = DDN(levels=256).nearest(net, x, y)
    torch.testing.assert_close(255 * x_adv, torch.round(255 * x_adv), rtol=0, atol=1e-9)
    assert (net(x_adv).argmax(1) != y).all()


def test_costs_are_steps_forwards_and_one_backward_less_and_who_is_broken_leaves(monkeypatch):
    net, x, y, *_ = linear_problem(64)
    model = Metered(net)
    DDN(threat=L2(epsilon=1e-6), steps=20)(model, x, y)
    assert (model.forwards, model.backwards) == (64 * 20, 64 * 19)
    distance = L2().distance(DDN().nearest(net, x, y), x)
    attack, results = DDN(threat=L2(epsilon=float(distance.sort().values[60]))), []
    for least, smaller in ((1, True), (32, True), (1000, False)):
        monkeypatch.setattr(standing, "LEAST", least)
        model = Metered(net)
        results.append(attack(model, x, y))
        assert (model.forwards < 64 * 80) == smaller
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-9)


def test_without_a_gradient_it_searches_in_a_random_direction():
    class Brightness(nn.Module):
        """Class 1 where the mean moved by a hundredth from a half; its gradient is zero."""

        def forward(self, x):
            moved = ((x - 0.5).flatten(1).norm(dim=1) > 0.5).to(x)
            return torch.stack([1 - moved, moved], 1).detach() + 0 * x.sum()

    x, y = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.long)
    noise = lambda: CounterNoise(0, torch.arange(3))  # noqa: E731
    x_adv = DDN(steps=60).nearest(Brightness(), x, y, noise=noise())
    assert (L2().distance(x_adv, x) < 0.56).all()
    assert (L2().distance(x_adv, x) > 0.5).all()
    assert not torch.equal(x_adv[0], x_adv[1])
    assert torch.equal(DDN(steps=60).nearest(Brightness(), x, y, noise=noise()), x_adv)


def test_an_image_that_is_wrong_already_is_its_own_nearest_point():
    net, x, y, *_ = linear_problem()
    assert torch.equal(DDN().nearest(net, x, 1 - y), x)
    assert torch.equal(DDN()(net, x, 1 - y), x)


def test_channels_last_changes_nothing():
    net, batch = tiny_net().eval().double(), tiny_batch()
    plain = DDN(steps=10).nearest(net, batch.x.double(), batch.y)
    net.to(memory_format=torch.channels_last)
    other = DDN(steps=10).nearest(net, batch.x.double().to(memory_format=torch.channels_last), batch.y)
    torch.testing.assert_close(other, plain, rtol=0, atol=1e-9)


def test_other_norms_and_crafting_are_refused():
    with pytest.raises(UserError, match="threat"):
        DDN(threat=Linf())  # type: ignore[arg-type]
    net, x, y, *_ = linear_problem()
    with pytest.raises(UserError, match="crafting"):
        DDN()(net, x, y, crafting=object())  # type: ignore[arg-type]
