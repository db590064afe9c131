"""APGD under L1, and what it leaves out for verdicts; the loop itself is in test_apgd.py."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from closed_forms import worst_case
from inure.attacks import APGD, standing
from inure.data import load as load_images
from inure.evaluation import evaluate
from inure.evaluation.suites import SUITES
from inure.losses import cross_entropy, margin
from inure.noise import CounterNoise
from inure.runs.load import load
from inure.settings.errors import UserError
from inure.threat import L1, L2, Linf
from tiny import CLASSES, counting, linear_net, noise_of, soft, tiny_batch, tiny_net

MARGIN = partial(margin, kappa=float("inf"))
THREATS = [Linf(epsilon=0.27), L2(epsilon=1.5), L1(epsilon=6)]
"""Radii at which the steep net stands for about half of the images."""
SHARED = Path(__file__).resolve().parents[3] / "shared"
ORACLE, IMAGES = SHARED / "oracle", SHARED / "data" / "cifar10-test.parquet"
threats = pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.kind)


def steep_net(pixels: int = 48) -> nn.Module:
    """Smooth, so that nothing hangs on the last bit, and so steep that steps overshoot."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 32), nn.Tanh(), nn.Linear(32, CLASSES)).double()
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(4)
    return net


def images(net: nn.Module, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, some pixels at 0 and 1, with the labels that the net gives them."""
    x = (1.2 * torch.rand(size, 3, 4, 4, dtype=torch.float64) - 0.1).clamp(0, 1)
    with torch.no_grad():
        return x, net(x).argmax(1)


def noise_for(rows: torch.Tensor) -> CounterNoise:
    return CounterNoise(0, rows + 100)


# L1, one image at a time


class Slow:
    """Section 4 of the L1 paper for one image, in plain loops; the projection is the library's, tested elsewhere."""

    def __init__(self, net, x, y, epsilon, steps, start=None, large_radii=False):
        self.net, self.x, self.y, self.d = net, x[None], y[None], x.numel()
        self.sparser = self.shorter = 0
        x_adv = self.x if start is None else start[None]
        plan = [(epsilon, steps)]
        if large_radii:
            first = math.ceil(0.3 * steps)
            plan = [(3 * epsilon, first), (2 * epsilon, first), (epsilon, steps - 2 * first)] if steps > 1 else plan
        for radius, length in plan:
            x_adv = self.climb(L1(epsilon=radius).project(x_adv, self.x), radius, length, measured=large_radii)
        self.x_adv = x_adv[0]

    def climb(self, current, radius, steps, measured):
        ball, every = L1(epsilon=radius), max(int(0.04 * steps), 1)
        share, differing, size = 0.2, self.d, radius
        if measured and (current != self.x).any():
            differing = int((current != self.x).sum())
            share = differing / self.d / 1.5
        seen = [(self.value(current), current, self.gradient(current))]
        gradient = seen[0][2]
        for k in range(1, steps + 1):
            flat, place = gradient.flatten(), current.flatten()
            flat = torch.where((place > 1 - 1e-5) & (flat > 0) | (place < 1e-5) & (flat < 0), 0.0, flat)
            chosen = sorted(range(self.d), key=lambda i: -abs(float(flat[i])))[: max(int(share * self.d), 1)]
            step = torch.zeros_like(flat)
            for i in chosen:
                step[i] = size * float(flat[i].sign()) / len(chosen)
            current = ball.project(current + step.view_as(current), self.x)
            seen.append((self.value(current), current, self.gradient(current)))
            gradient = seen[-1][2]
            if k % every == 0:
                _, best, best_gradient = max(seen, key=lambda point: point[0])
                now = int((best != self.x).sum())
                if now < 0.95 * differing:
                    size, current, gradient = radius, best, best_gradient
                    self.sparser += 1
                else:
                    size = max(size / 1.5, radius / 10)
                    self.shorter += 1
                share, differing = now / self.d / 1.5, now
        return max(seen, key=lambda point: point[0])[1]

    def value(self, z):
        with torch.no_grad():
            return float(F.cross_entropy(self.net(z), self.y))

    def gradient(self, z):
        z = z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(self.net(z), self.y), z)
        return gradient


@pytest.mark.parametrize("large_radii", [False, True])
@pytest.mark.parametrize("steps", [1, 5, 40])
def test_under_l1_every_example_climbs_as_it_would_alone(steps, large_radii):
    net = steep_net()
    x, y = images(net, 6)
    found = APGD(threat=L1(epsilon=1.5), steps=steps, start="zero", large_radii=large_radii)(net, x, y)
    alone = [Slow(net, image, label, 1.5, steps, large_radii=large_radii) for image, label in zip(x, y, strict=True)]
    assert torch.allclose(found, torch.stack([one.x_adv for one in alone]), rtol=0, atol=1e-9)
    if steps == 40:
        assert sum(one.sparser for one in alone) > 0
        assert sum(one.shorter for one in alone) > 0


def test_large_radii_start_from_noise_in_the_largest_ball():
    net, seen = steep_net(), []
    x, y = images(net, 6)
    handle = net.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))
    attack = APGD(threat=L1(epsilon=1.5), steps=20, large_radii=True)
    found = attack(net, x, y, noise=noise_for(torch.arange(6)))
    handle.remove()
    far = torch.stack([L1().distance(point, x) for point in seen])
    radii = [4.5] * 7 + [3.0] * 7 + [1.5] * 9
    assert len(seen) == len(radii)
    assert (far.amax(1) <= torch.tensor(radii) + 1e-9).all()
    assert (far[0] > 4.4).all()
    assert (far[7] > 2.9).all()
    assert (L1().distance(found, x) <= 1.5 + 1e-9).all()
    alone = [Slow(net, *pair, 1.5, 20, start, True) for *pair, start in zip(x, y, seen[0], strict=True)]
    assert torch.allclose(found, torch.stack([one.x_adv for one in alone]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("large_radii", [False, True])
@pytest.mark.parametrize("epsilon", [0.3, 2.0, 6.0])
def test_under_l1_it_comes_within_a_quarter_of_the_worst_case_of_a_linear_classifier(epsilon, large_radii):
    weight = torch.randn(2, 108, dtype=torch.float64)
    net, y = linear_net(weight, torch.tensor([0.1, -0.1], dtype=torch.float64)), torch.arange(10) % 2
    x = (1.5 * torch.rand(10, 3, 6, 6, dtype=torch.float64) - 0.25).clamp(0, 1)
    attack = APGD(threat=L1(epsilon=epsilon), steps=50, large_radii=large_radii)
    with torch.no_grad():
        gained = MARGIN(net(attack(net, x, y, loss=MARGIN)), y) - MARGIN(net(x), y)
    pairs = zip((weight[1 - y] - weight[y]).numpy(), x.flatten(1).numpy(), strict=True)
    best = np.array([worst_case(attack.threat, w, flat) for w, flat in pairs])
    assert (gained.numpy() <= best + 1e-9).all()
    assert (1.25 * gained.numpy() >= best).all()


def test_large_radii_are_refused_outside_l1():
    with pytest.raises(UserError, match="large_radii: got True; allowed false under linf") as caught:
        APGD(threat=Linf(), large_radii=True)
    assert "\n" not in str(caught.value)


# Verdicts


@threats
def test_the_first_misclassified_point_is_kept(threat, monkeypatch):
    monkeypatch.setattr(standing, "LEAST", 20)  # nobody leaves
    net, seen = steep_net(), []
    x, y = images(net, 20)
    handle = net.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))
    attack = APGD(threat=threat, steps=20, keep="worst")
    found = attack.search(net, x, y, noise=noise_for(torch.arange(20)))
    handle.remove()
    points = torch.stack(seen)
    with torch.no_grad():
        wrong = torch.stack([net(point).argmax(1) != y for point in points])
        losses = torch.stack([cross_entropy(net(point), y) for point in points])
    assert torch.equal(found.fooled, wrong.any(0))
    assert found.fooled.any()
    assert not found.fooled.all()
    chosen = torch.where(wrong.any(0), wrong.int().argmax(0), losses.argmax(0))
    assert torch.equal(found.x_adv, points[chosen, torch.arange(20)])


@threats
@pytest.mark.parametrize("restarts", [1, 3])
def test_who_is_misclassified_leaves_and_nothing_else_changes(threat, restarts, monkeypatch):
    net = steep_net()
    x, y = images(net, 70)
    radii = torch.linspace(0, float(threat.epsilon), 70, dtype=torch.float64)[torch.randperm(70)]
    large = isinstance(threat, L1)
    attack = APGD(threat=threat, steps=20, restarts=restarts, keep="worst", large_radii=large)
    attack = attack.model_copy(update={"threat": threat.with_epsilon(radii)})
    found, cost = {}, {}
    for name, least in {"always": 1, "often": 20, "never": 70}.items():
        monkeypatch.setattr(standing, "LEAST", least)
        net = steep_net()
        sizes = counting(net)
        found[name] = attack(net, x, y, noise=noise_for(torch.arange(70)))
        cost[name] = sum(sizes())
    assert torch.allclose(found["always"], found["never"], rtol=0, atol=1e-12)
    assert torch.allclose(found["often"], found["never"], rtol=0, atol=1e-12)
    assert cost["always"] <= cost["often"] < cost["never"] == restarts * 70 * (23 if large else 21)


@threats
def test_verdicts_do_not_depend_on_the_other_examples_or_their_order(threat, monkeypatch):
    monkeypatch.setattr(standing, "LEAST", 4)
    net = steep_net()
    x, y = images(net, 60)
    attack = APGD(threat=threat, steps=15, restarts=2, keep="worst")
    whole = attack(net, x, y, noise=noise_for(torch.arange(60)))
    order = torch.randperm(60)
    for rows in order.split([1, 20, 39]):
        part = attack(net, x[rows], y[rows], noise=noise_for(rows))
        assert torch.allclose(part, whole[rows], rtol=0, atol=1e-9)


def test_a_restart_is_for_who_still_stands():
    net = steep_net()
    x, y = images(net, 64)
    sizes = counting(net)
    single = APGD(threat=Linf(epsilon=0.3), steps=8, keep="worst")
    left = int((~single.search(net, x, y, noise=noise_for(torch.arange(64))).fooled).sum())
    first = len(sizes())
    assert 0 < left < 33
    single.model_copy(update={"restarts": 2})(net, x, y, noise=noise_for(torch.arange(64)))
    assert sizes()[2 * first] == left


def test_nothing_is_done_once_nobody_stands():
    net = steep_net()
    x, y = images(net, 10)
    sizes = counting(net)
    APGD(threat=Linf(epsilon=0.9), steps=50, restarts=5, keep="worst")(net, x, y)
    assert len(sizes()) <= 20


def test_the_climb_for_training_does_not_stop():
    net = steep_net()
    x, y = images(net, 10)
    sizes = counting(net)
    APGD(threat=Linf(epsilon=0.5), steps=20, restarts=2)(net, x, y)
    assert sizes() == [10] * 42


@threats
def test_verdicts_with_soft_labels_channels_last_and_gradients_of_random_nets(threat):
    net, batch = tiny_net().eval(), tiny_batch(12)
    attack = APGD(threat=threat, steps=12, keep="worst", restarts=2)
    plain = attack.search(net, batch.x, batch.y, noise=noise_of(batch))
    mixed = attack(net, batch.x, soft(batch.y), noise=noise_of(batch))
    assert (threat.distance(mixed.double(), batch.x.double()) <= threat.epsilon + 1e-6).all()
    last = batch.x.to(memory_format=torch.channels_last)
    last = attack.search(net.to(memory_format=torch.channels_last), last, batch.y, noise=noise_of(batch))
    assert torch.equal(last.fooled, plain.fooled)
    sizes = counting(net)
    averaged = attack.model_copy(update={"eot_samples": 3}).search(net, batch.x, batch.y, noise=noise_of(batch))
    assert torch.equal(averaged.fooled, plain.fooled)
    assert len(sizes()) % 3 == 0


# The reference


def test_the_settings_of_the_suite_are_those_of_the_reference():
    (member,) = SUITES["apgd_ce"](Linf(epsilon=8 / 255))
    assert (member.name, member.loss) == ("apgd-ce", cross_entropy)
    assert member.attack == APGD(threat=Linf(epsilon=8 / 255), steps=100, keep="worst")
    assert (member.attack.rho, member.attack.start, member.attack.eot_samples) == (0.75, "sphere", 1)
    (member,) = SUITES["apgd_ce"](L1(epsilon=12))
    assert member.attack == APGD(threat=L1(epsilon=12), steps=100, restarts=5, keep="worst", large_radii=True)


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["apgd_ce", "apgd_t"])
@pytest.mark.skipif(not (ORACLE.is_dir() and IMAGES.is_file()), reason="no ../shared")
def test_as_many_examples_stand_as_with_the_reference(suite):
    theirs = json.loads((ORACLE / "verdicts.json").read_text())
    net = load(f"{ORACLE / 'net.py'}:build", ORACLE / "weights.pt")
    found = evaluate(net, load_images(str(IMAGES), "test").head(128), suite=suite, threat="linf:8/255")
    reference = theirs["alone"][suite.replace("_", "-")]
    assert abs(int(found.robust.sum()) - sum(reference["robust"])) <= 2
    # Who withstands the cascade withstands each of its attacks
    assert (found.robust & torch.tensor(theirs["cascade"]["robust"]).bool()).sum() >= 28
