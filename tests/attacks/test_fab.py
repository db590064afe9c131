"""FAB on linear nets, where the least distance is known, and against a slow version for one image in numpy."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from closed_forms import worst_case
from inure.attacks import FAB, standing
from inure.data import load as load_images
from inure.evaluation.examples import Examples
from inure.evaluation.metered import Metered
from inure.noise import CounterNoise
from inure.runs.load import load
from inure.settings.errors import UserError
from inure.threat import L1, L2, Linf
from tiny import linear_net, tiny_batch, tiny_net

SHARED = Path(__file__).resolve().parents[3] / "shared"
ORACLE, IMAGES = SHARED / "oracle", SHARED / "data" / "cifar10-test.parquet"
SHAPE, PIXELS, CLASSES = (3, 4, 4), 48, 5
THREATS = [Linf(epsilon=0.1), L2(epsilon=0.5), L1(epsilon=2)]
threats = pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.kind)
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}


def linear_problem(classes: int, size: int = 5):
    """A linear net in float64, images that it gets right, a few pixels at 0 and 1."""
    weight, bias = torch.randn(classes, PIXELS, dtype=torch.float64), torch.randn(classes, dtype=torch.float64)
    x = (1.2 * torch.rand(size, *SHAPE, dtype=torch.float64) - 0.1).clamp(0, 1)
    net = linear_net(weight, bias)
    with torch.no_grad():
        return net, x, net(x).argmax(1), weight, bias


def smooth_net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 24), nn.Tanh(), nn.Linear(24, CLASSES)).double()
        with torch.no_grad():
            next(net.parameters()).mul_(6)
    return net


def smooth_problem(size: int = 6):
    net, x = smooth_net(), (1.2 * torch.rand(size, *SHAPE, dtype=torch.float64) - 0.1).clamp(0, 1)
    with torch.no_grad():
        return net, x, net(x).argmax(1)


def least_distance(threat, w, x, gap) -> float:
    """The radius at which the worst case of a linear function just closes the gap, by bisection."""
    low, high = 0.0, float(PIXELS)
    if worst_case(threat.with_epsilon(high), w, x) < gap:
        return np.inf
    for _ in range(40):
        middle = (low + high) / 2
        enough = worst_case(threat.with_epsilon(middle), w, x) >= gap
        low, high = (low, middle) if enough else (middle, high)
    return high


def least_distances(threat, x, y, weight, bias) -> torch.Tensor:
    logits = x.flatten(1) @ weight.T + bias
    return torch.tensor([
        min(
            least_distance(threat, (weight[j] - weight[c]).numpy(), flat.numpy(), float(z[c] - z[j]))
            for j in range(len(weight)) if j != c
        )
        for flat, c, z in zip(x.flatten(1), y.tolist(), logits, strict=True)
    ])  # fmt: skip


# Where the least distance is known


@threats
@pytest.mark.parametrize("classes", [2, 5])
def test_far_from_the_box_the_least_distance_to_a_linear_boundary_is_found(threat, classes):
    net, x, _, weight, bias = linear_problem(classes)
    x = 0.5 + 0.05 * (x - 0.5)
    net[1].bias = nn.Parameter(bias := bias - weight.sum(1) / 2)  # the logits stay small where x is
    y = net(x).argmax(1)
    best = least_distances(threat, x, y, weight, bias)
    for targets in (None, 9):
        x_adv = FAB(threat=threat, targets=targets, steps=10).nearest(net, x, y)
        ratio = threat.distance(x_adv, x) / best
        assert (net(x_adv).argmax(1) != y).all()
        assert (ratio >= 1 - 1e-6).all()
        assert (ratio <= 1 + 1e-5).all()


@threats
def test_at_the_bounds_of_the_box_it_is_found_up_to_what_eta_cuts_off(threat):
    net, x, y, weight, bias = linear_problem(5)
    x_adv = FAB(threat=threat, targets=4, steps=20).nearest(net, x, y)
    ratio = threat.distance(x_adv, x) / least_distances(threat, x, y, weight, bias)
    assert (ratio >= 1 - 1e-6).all()
    assert (ratio <= 1.005).all()


def test_the_final_search_brings_points_nearer_and_leaves_them_misclassified():
    net, x, y = smooth_problem()
    for threat in THREATS:
        before, after = (FAB(threat=threat, steps=4, final_steps=k).nearest(net, x, y) for k in (0, 3))
        assert (net(after).argmax(1) != y).all()
        assert (threat.distance(after, x) < threat.distance(before, x)).all()
        # On the way to the clean image, and just past the boundary there
        inside = x + 0.99 * (after - x)
        assert (net(inside).argmax(1) == y).all()


def test_one_target_leads_to_the_second_class_even_where_another_is_nearer():
    net, x, y, weight, bias = linear_problem(5, size=40)
    one, all_four = (FAB(targets=count).nearest(net, x, y) for count in (1, 4))
    farther = Linf().distance(one, x) > 1.1 * Linf().distance(all_four, x)
    assert farther.any()
    assert not farther.all()


@threats
def test_verdicts_on_a_linear_net_are_exact_just_inside_and_just_outside_the_least_distance(threat):
    net, x, y, weight, bias = linear_problem(3)
    best = least_distances(threat, x, y, weight, bias)
    for stop, factor, falls in ((True, 1.02, True), (True, 0.999, False), (False, 1.005, True), (False, 0.999, False)):
        attack = FAB(threat=threat, targets=2, steps=30, stop_at_epsilon=stop)
        attack = attack.model_copy(update={"threat": threat.with_epsilon(factor * best)})
        x_adv = attack(net, x, y)
        assert ((net(x_adv).argmax(1) != y) == falls).all()
        assert (threat.distance(x_adv, x) <= factor * best).all()
        assert falls or torch.equal(x_adv, x)


# One image at a time, in numpy


def slow_way(threat, x, normal, need):
    """Bisection on the multiplier, or on the number of pixels in L1: no sorting of breakpoints."""
    direction, need = normal * np.sign(need), abs(need)
    room, weight = np.where(direction > 0, 1 - x, x), abs(normal)
    if threat.kind == "l1":
        size = np.zeros_like(x)
        for i in np.argsort(-weight):
            size[i] = min(room[i], max(need - weight @ size, 0) / weight[i])
        return np.sign(direction) * size
    speed = np.ones_like(x) if threat.kind == "linf" else weight
    low, high = 0.0, (room / speed).max()
    for _ in range(200):
        middle = (low + high) / 2
        short = weight @ np.minimum(middle * speed, room) < need
        low, high = (middle, high) if short else (low, middle)
    return np.sign(direction) * np.minimum(high * speed, room)


def slow_fab(net, x, c, threat, steps, target, alpha_max=0.1, eta=1.05, beta=0.9):
    """The paper's loop: (the closest point or None, its distance)."""
    order, dual = ORDER[threat.kind], {"linf": 1, "l2": 2, "l1": np.inf}[threat.kind]

    def look(point):
        """Logits and the gradient of each."""
        leaf = torch.tensor(point).view(1, *SHAPE).requires_grad_()
        z = net(leaf)[0]
        return z.detach().numpy(), [torch.autograd.grad(v, leaf, retain_graph=True)[0].numpy().ravel() for v in z]

    clean, here, found, least = x.numpy().ravel(), x.numpy().ravel(), None, np.inf
    for _ in range(steps):
        z, grads = look(here)
        if np.argmax(z) != c and np.linalg.norm(here - clean, order) < least:
            found, least = here, np.linalg.norm(here - clean, order)
        classes = [target] if target is not None else [j for j in range(CLASSES) if j != c]
        near = [abs(z[j] - z[c]) / np.linalg.norm(grads[j] - grads[c], dual) for j in classes]
        j = classes[int(np.argmin(near))]
        w = grads[j] - grads[c]
        b = w @ here - (z[j] - z[c])
        d, d_clean = (slow_way(threat, p, w, b - w @ p) for p in (here, clean))
        length, length_clean = np.linalg.norm(d, order), np.linalg.norm(d_clean, order)
        alpha = min(length / (length + length_clean), alpha_max)
        here = np.clip((1 - alpha) * (here + eta * d) + alpha * (clean + eta * d_clean), 0, 1)
        if np.argmax(look(here)[0]) != c:
            if np.linalg.norm(here - clean, order) < least:
                found, least = here, np.linalg.norm(here - clean, order)
            here = clean + beta * (here - clean)
    return found, least


@threats
@pytest.mark.parametrize("targets", [None, 1])
def test_the_search_is_the_slow_one_of_the_paper(threat, targets):
    net, x, y = smooth_problem()
    x_adv = FAB(threat=threat, steps=12, targets=targets, final_steps=0).nearest(net, x, y)
    second = net(x).topk(2).indices[:, 1]
    for i in range(len(x)):
        target = None if targets is None else int(second[i])
        expected, least = slow_fab(net, x[i], int(y[i]), threat, 12, target)
        assert expected is not None
        np.testing.assert_allclose(x_adv[i].numpy().ravel(), expected, rtol=0, atol=1e-7)
        assert float(threat.distance(x_adv[i : i + 1], x[i : i + 1])) == pytest.approx(least, abs=1e-7)


@threats
def test_the_search_for_verdicts_breaks_what_the_whole_search_breaks(threat):
    net, x, y = smooth_problem(64)
    least = threat.distance(FAB(threat=threat, targets=4, steps=40).nearest(net, x, y), x)
    for factor in (0.5, 0.9, 1.1, 1.5):
        # A radius for each example, so that every one of them is near its own least distance
        narrow = FAB(threat=threat, targets=4, steps=40).model_copy(
            update={"threat": threat.with_epsilon(factor * least)}
        )
        fallen = (net(narrow(net, x, y)).argmax(1) != y).double().mean()
        assert fallen == (0 if factor < 1 else 1), factor


# What it costs


def metered(net, attack, x, y):
    model = Metered(net)
    attack(model, x, y)
    return model.forwards / len(x), model.backwards / len(x)


@pytest.mark.parametrize("restarts", [1, 2])
def test_a_step_of_a_verdict_is_one_forward_and_one_backward(restarts):
    net, x, y = smooth_problem()
    out_of_reach = {"threat": Linf(epsilon=1e-4), "steps": 7, "restarts": restarts}
    assert metered(net, FAB(**out_of_reach, targets=3), x, y) == (1 + 3 * restarts * 8, 3 * restarts * 7)
    assert metered(net, FAB(**out_of_reach), x, y) == (1 + restarts * 8, restarts * 7 * (CLASSES - 1))
    whole = FAB(**out_of_reach, targets=3, stop_at_epsilon=False)
    # and the final search, once
    assert metered(net, whole, x, y) == (1 + 3 * restarts * 14 + 3, 3 * restarts * 7)


def test_examples_that_are_broken_leave_the_search():
    net, x, y = smooth_problem(128)
    within_reach = Linf().distance(FAB(targets=1, steps=20).nearest(net, x, y), x).sort().values[110]
    attack = FAB(threat=Linf(epsilon=float(within_reach)), targets=4, steps=20)
    forwards, backwards = metered(net, attack, x, y)
    assert forwards < 0.6 * (1 + 4 * 21)
    assert backwards < 0.6 * 4 * 20


@pytest.mark.parametrize("restarts", [1, 2])
def test_leaving_changes_no_result(monkeypatch, restarts):
    net, x, y = smooth_problem(40)
    y[3] = (y[3] + 1) % CLASSES
    for threat, radius in zip(THREATS, (0.008, 0.05, 0.3), strict=True):
        attack = FAB(threat=threat.with_epsilon(radius), targets=3, steps=20, restarts=restarts)
        results = []
        for least in (1, 8, 1000):
            monkeypatch.setattr(standing, "LEAST", least)
            results.append(attack(net, x, y, noise=CounterNoise(0, torch.arange(40))))
        fallen = net(results[0]).argmax(1) != y
        assert fallen.any()
        assert not fallen.all()
        for other in results[1:]:
            torch.testing.assert_close(other, results[0], rtol=0, atol=1e-9)


# Limits


def test_an_image_that_is_wrong_already_is_its_own_nearest_point_and_is_not_searched():
    net, x, y = smooth_problem()
    wrong = (y + 1) % CLASSES
    for attack in (FAB(steps=3), FAB(steps=3, targets=2, stop_at_epsilon=False)):
        assert torch.equal(attack(net, x, wrong), x)
        assert torch.equal(attack.nearest(net, x, wrong), x)
        assert metered(net, attack, x, wrong) == (1, 0)


def test_a_net_without_gradient_leaves_the_images_as_they_are():
    net = linear_net(torch.zeros(3, PIXELS), torch.tensor([1.0, 0, 0]))
    x, y = torch.rand(4, *SHAPE), torch.zeros(4, dtype=torch.long)
    for threat in THREATS:
        for targets in (None, 2):
            attack = FAB(threat=threat, steps=5, targets=targets, restarts=2)
            assert torch.equal(attack(net, x, y), x)
            assert torch.equal(attack.nearest(net, x, y), x)


@threats
def test_restarts_begin_at_half_the_radius_in_directions_of_their_own(threat):
    net, x, y = smooth_problem()
    x = 0.25 + x / 2
    y = net(x).argmax(1)
    attack = FAB(threat=threat.with_epsilon(1e-3), restarts=3, steps=1, targets=1)
    seen = []
    net.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))
    attack(net, x, y, noise=CounterNoise(0, torch.arange(6)))
    starts = [seen[1], seen[3], seen[5]]  # the clean forward, then two a run
    assert torch.equal(starts[0], x)
    for start in starts[1:]:
        torch.testing.assert_close(
            threat.distance(start, x), torch.full((6,), 0.5e-3, dtype=x.dtype), rtol=1e-5, atol=0
        )
    assert threat.distance(starts[1], starts[2]).min() > 1e-4


def test_all_classes_at_once_are_refused_where_they_are_many():
    x, y = torch.rand(2, 1, 2, 2), torch.zeros(2, dtype=torch.long)
    net = linear_net(torch.randn(101, 4), torch.tensor([9.0] + [0] * 100))
    with pytest.raises(
        UserError, match=r"targets: got None; allowed a number, for a net of 101 .*; try targets=9"
    ) as e:
        FAB()(net, x, y)
    assert "\n" not in str(e.value)
    FAB(targets=9, steps=1)(net, x, y)


def test_crafting_is_refused():
    net, x, y = smooth_problem()
    with pytest.raises(UserError, match="crafting"):
        FAB()(net, x, y, crafting=object())  # type: ignore[arg-type]


@threats
@pytest.mark.parametrize("targets", [None, 2])
def test_channels_last_images_and_gradients_change_nothing(threat, targets):
    net, batch = tiny_net().eval().double(), tiny_batch()
    x = batch.x.double()
    attack = FAB(threat=threat, steps=4, targets=targets)
    plain = attack.nearest(net, x, batch.y)
    other = attack.nearest(
        net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last), batch.y
    )  # fmt: skip
    torch.testing.assert_close(other, plain, rtol=0, atol=1e-9)


def test_the_nearest_points_do_not_depend_on_epsilon():
    net, x, y = smooth_problem()
    small, large = (FAB(threat=Linf(epsilon=e), steps=6, targets=2).nearest(net, x, y) for e in (1e-4, 0.5))
    assert torch.equal(small, large)


# The reference


@pytest.mark.slow
@pytest.mark.skipif(not (ORACLE.is_dir() and IMAGES.is_file()), reason="no ../shared")
def test_fab_t_breaks_what_the_reference_breaks_with_fewer_forwards(monkeypatch):
    net = load(f"{ORACLE / 'net.py'}:build", ORACLE / "weights.pt").eval()
    examples = Examples.of(load_images(str(IMAGES), "test").head(128), None)
    verdicts = json.loads((ORACLE / "verdicts.json").read_text())
    theirs, standing_in_the_end = verdicts["alone"]["fab-t"], verdicts["cascade"]
    assert theirs["robust"] == standing_in_the_end["robust"]
    # The 29 others, which withstand every attack, would take nine tenths of the time
    broken = (torch.tensor(verdicts["clean_correct"]) > torch.tensor(theirs["robust"])).nonzero().flatten()
    x, y = examples.images(broken, torch.device("cpu")), examples.labels[broken]
    monkeypatch.setattr(standing, "LEAST", 1)
    model = Metered(net)
    x_adv = FAB(threat=Linf(epsilon=8 / 255), targets=9)(model, x, y)
    with torch.no_grad():
        assert (net(x_adv).argmax(1) == y).sum() <= 2
    # Alone and in the cascade those 29 cost the reference the same
    cascade = standing_in_the_end["attacks"]["fab-t"]
    assert model.forwards < 0.5 * (theirs["forwards"] - cascade["forwards"])
    assert model.backwards < theirs["forwards_with_gradient"] - cascade["forwards_with_gradient"]
