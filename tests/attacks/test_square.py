"""Square against a slow version, written from the papers, that searches for one image at a time with loops."""

import json
import math
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from closed_forms import worst_case
from inure.attacks import Square, standing
from inure.attacks.square_patches import bumps, numbers_of, propose, side_of
from inure.data import load as load_images
from inure.evaluation.examples import Examples
from inure.losses import margin
from inure.noise import CounterNoise
from inure.runs.load import load
from inure.settings.errors import UserError
from inure.threat import L1, L2, Linf
from tiny import CLASSES, counting, linear_net, noise_of, tiny_batch, tiny_net

SHARED = Path(__file__).resolve().parents[3] / "shared"
ORACLE, IMAGES = SHARED / "oracle", SHARED / "data" / "cifar10-test.parquet"
MARGIN = partial(margin, kappa=float("inf"))
THREATS = [Linf(epsilon=0.06), L2(epsilon=0.5), L1(epsilon=3)]
SHAPES = [(3, 6, 6), (1, 8, 8), (3, 5, 12), (2, 13, 7), (3, 2, 9), (1, 1, 1)]
threats = pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.kind)


def net_for(shape: tuple[int, int, int], seed: int = 0) -> nn.Module:
    """Smooth, in float64, and sure enough of itself that some images stand."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 24), nn.Tanh(), nn.Linear(24, CLASSES)).double()
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(3)
    return net


def right_images(net: nn.Module, shape: tuple[int, int, int], size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, a few pixels at 0 and at 1, with the labels that the net gives them."""
    x = (1.2 * torch.rand(size, *shape, dtype=torch.float64) - 0.1).clamp(0, 1)
    with torch.no_grad():
        return x, net(x).argmax(1)


def noise_for(size: int, seed: int = 0) -> CounterNoise:
    return CounterNoise(seed, torch.arange(size) + 50)


# One image at a time


def slow_bumps(side: int, power: int) -> np.ndarray:
    """Algorithm 4: rectangles that grow by one pixel on each side, each adding its height to what it covers."""
    total = np.zeros((side, side))
    for sign, first, height in ((1, 0, side // 2), (-1, side // 2, side - side // 2)):
        half = np.zeros((height, side))
        for k in range(max(height, side) // 2 + 1):
            for i in range(height):
                for j in range(side):
                    if abs(i - height // 2) <= k and abs(j - side // 2) <= k:
                        half[i, j] += 1 / (k + 1) ** (2 if power == 2 else 4)
        if height:
            total[first : first + height] = sign * half / (abs(half) ** power).sum() ** (1 / power)
    return total / (abs(total) ** power).sum() ** (1 / power)


class Slow:
    """One image in float64: windows cut out by slices, channels one by one, the numbers those of the attack."""

    def __init__(self, net, x, y, threat, queries, noise, p_init=0.8):
        self.net, self.x, self.y, self.threat, self.epsilon = net, x.numpy(), y, threat, float(threat.epsilon)
        self.channels, self.height, self.width = x.shape
        first = self.start(noise, x[None])
        width = numbers_of(threat, self.channels)
        # The same stream as blocks: the n-th number of an example depends on n alone
        numbers = [
            block
            for begin in range(0, queries - 1, 64)
            for block in noise.uniform(torch.empty(1, min(64, queries - 1 - begin), width, dtype=x.dtype))[0].numpy()
        ]
        self.best, self.value, self.wrong = first, *self.look(first)
        self.values = [self.value]
        for k, drawn in enumerate(numbers):
            if self.wrong:
                break
            halvings = sum(k > t for t in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))
            candidate = self.proposal(round(math.sqrt(p_init / 2**halvings * self.height * self.width)), drawn)
            value, wrong = self.look(candidate)
            if value > self.value or wrong:
                self.best, self.value, self.wrong = candidate, value, wrong
            self.values.append(self.value)

    def look(self, image):
        with torch.no_grad():
            logits = self.net(torch.from_numpy(image)[None])
        others = [float(z) for j, z in enumerate(logits[0]) if j != int(self.y)]
        return max(others) - float(logits[0, self.y]), int(logits.argmax()) != int(self.y)

    def start(self, noise, x):
        if self.threat.kind == "linf":
            columns = noise.uniform(x[:, :, :1])[0].numpy()
            image = self.x.copy()
            for c in range(self.channels):
                for j in range(self.width):
                    image[c, :, j] += self.epsilon if columns[c, 0, j] >= 0.5 else -self.epsilon
            return image.clip(0, 1)
        side = max(min(self.height, self.width) // 5, 1)
        down, across = self.height // side, self.width // side
        top, left = (self.height - down * side) // 2, (self.width - across * side) // 2
        drawn = noise.uniform(torch.empty(1, 1 + self.channels, down, across, dtype=x.dtype))[0].numpy()
        delta, bump = np.zeros_like(self.x), slow_bumps(side, self.power)
        for i in range(down):
            for j in range(across):
                turned = bump.T if drawn[0, i, j] < 0.5 else bump
                for c in range(self.channels):
                    rows = slice(top + i * side, top + (i + 1) * side)
                    columns = slice(left + j * side, left + (j + 1) * side)
                    delta[c, rows, columns] = turned if drawn[1 + c, i, j] >= 0.5 else -turned
        return self.at_the_radius(delta)

    @property
    def power(self):
        return 1 if self.threat.kind == "l1" else 2

    def proposal(self, side, drawn):
        if self.threat.kind == "linf":
            side = min(max(side, 1), self.height, self.width)
            rows, columns = self.place(drawn[:2], side)
            image = self.best.copy()
            for c in range(self.channels):
                image[c, rows, columns] = self.x[c, rows, columns] + self.epsilon * (1 if drawn[2 + c] >= 0.5 else -1)
            return image.clip(0, 1)
        side = max(side, 3)
        side = min(side if side % 2 else side + 1, self.height, self.width)
        first, second = self.place(drawn[:2], side), self.place(drawn[2:4], side)
        bump = slow_bumps(side, self.power)
        bump = bump.T if drawn[4] < 0.5 else bump
        before, after = self.best - self.x, self.best - self.x
        unused = max(self.epsilon**self.power - self.mass(before), 0) / self.channels
        for c in range(self.channels):
            both = np.zeros((self.height, self.width), bool)
            both[first] = both[second] = True
            old = before[c][first] / max(self.mass(before[c][first]) ** (1 / self.power), 1e-12)
            new = old + (bump if drawn[5 + c] >= 0.5 else -bump)
            size = (unused + self.mass(before[c][both])) ** (1 / self.power)
            after[c][second] = 0
            after[c][first] = new / self.mass(new) ** (1 / self.power) * size
            if self.power == 1:
                after[c][first] *= self.channels
        return self.at_the_radius(after)

    def place(self, drawn, side):
        row, column = int(drawn[0] * (self.height - side + 1)), int(drawn[1] * (self.width - side + 1))
        return slice(row, row + side), slice(column, column + side)

    def mass(self, v):
        return float((abs(v) ** self.power).sum())

    def at_the_radius(self, delta):
        if self.power == 1:
            return self.nearest_in_l1(delta)
        return (self.x + delta * self.epsilon / math.sqrt(self.mass(delta))).clip(0, 1)

    def nearest_in_l1(self, delta):
        """Shrink every coordinate by the same amount, at most to 0, clipped to the box: the amount by bisection."""
        room = np.where(delta > 0, 1 - self.x, self.x)

        def shrunk(level):
            return np.minimum((abs(delta) - level).clip(0), room)

        low, high = 0.0, abs(delta).max()
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if shrunk(middle).sum() > self.epsilon else (low, middle)
        return self.x + np.sign(delta) * shrunk(0.0 if shrunk(0.0).sum() <= self.epsilon else high)


@threats
@pytest.mark.parametrize("shape", SHAPES[1:4], ids=str)
def test_every_example_is_searched_as_it_would_be_alone(threat, shape):
    net = net_for(shape)
    x, y = right_images(net, shape, 6)
    found = Square(threat=threat, queries=90)(net, x, y, noise=noise_for(6))
    moved = 0
    for i in range(6):
        slow = Slow(net, x[i], y[i], threat, 90, CounterNoise(0, torch.tensor([50 + i])))
        # L2 and L1 projections aim a relative 1e-6 inside
        np.testing.assert_allclose(found[i].numpy(), slow.best, rtol=0, atol=3e-5)
        moved += len(set(slow.values)) > 3
    assert moved >= 2, "too few proposals were accepted to tell anything"


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("side", [1, 2, 3, 5, 6, 9, 12])
def test_bumps_are_heaps_of_rectangles_of_norm_one(side, power):
    np.testing.assert_allclose(bumps(side, power).numpy(), slow_bumps(side, power), atol=1e-12)
    assert float(bumps(side, power).norm(p=power)) == pytest.approx(1)


# The schedule


def test_the_share_of_the_image_is_halved_at_the_numbers_of_the_paper():
    share = Square(p_init=0.8).window_share
    first = {0: 1, 10: 1, 11: 2, 50: 2, 51: 4, 200: 4, 201: 8, 500: 8, 501: 16, 1000: 16, 1001: 32, 2000: 32, 2001: 64}
    later = {4000: 64, 4001: 128, 6000: 128, 6001: 256, 8000: 256, 8001: 512, 10**6: 512}
    for proposals, divisor in (first | later).items():
        assert share(proposals) == 0.8 / divisor, proposals
    rescaled = Square(p_init=0.4, queries=1000, rescale_schedule=True).window_share
    for proposals, divisor in {1: 1, 2: 2, 5: 2, 6: 4, 20: 4, 21: 8, 100: 16, 800: 256, 801: 512, 999: 512}.items():
        assert rescaled(proposals) == 0.4 / divisor, proposals


def test_windows_of_cifar_have_the_sides_of_the_reference_and_others_fit_the_image():
    sides = [side_of(THREATS[0], 0.8 / 2**n, 32, 32) for n in range(9)]
    assert sides == [29, 20, 14, 10, 7, 5, 4, 3, 2]
    assert [side_of(THREATS[1], 0.8 / 2**n, 32, 32) for n in range(9)] == [29, 21, 15, 11, 7, 5, 5, 3, 3]
    assert side_of(THREATS[2], 0.8, 32, 32) == 29
    assert side_of(THREATS[0], 0.8, 10, 90) == 10
    assert side_of(THREATS[0], 0.8, 90, 10) == 10
    assert side_of(THREATS[0], 1e-9, 10, 90) == 1
    assert side_of(THREATS[1], 1e-9, 2, 90) == 2


# Geometry


@threats
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_point_that_is_tried_is_in_ball_and_box(threat, shape, dtype, monkeypatch):
    monkeypatch.setattr(standing, "LEAST", 8)  # nobody leaves
    net = net_for(shape).to(dtype)
    x, y = right_images(net.double(), shape, 8)
    x, net = x.to(dtype), net.to(dtype)
    tried = []
    net.register_forward_pre_hook(lambda _, arguments: tried.append(arguments[0].clone()))
    # Rescaled, so that windows of every size are tried
    Square(threat=threat, queries=60, rescale_schedule=True)(net, x, y, noise=noise_for(8))
    assert tried
    for point in tried:
        assert point.dtype == dtype
        assert point.isfinite().all()
        assert point.min() >= 0
        assert point.max() <= 1
        assert (threat.distance(point.double(), x.double()) <= threat.epsilon + 1e-6).all()


@threats
def test_far_from_the_box_every_point_has_the_full_radius(threat):
    shape = (3, 10, 8)
    net = linear_net(torch.zeros(2, 240, dtype=torch.float64), torch.tensor([9.0, 0.0], dtype=torch.float64))
    x = torch.full((4, *shape), 0.5, dtype=torch.float64)
    threat, tried = threat.with_epsilon(0.4), []
    net.register_forward_pre_hook(lambda _, arguments: tried.append(arguments[0]))
    Square(threat=threat, queries=40)(net, x, torch.zeros(4).long(), noise=noise_for(4))
    assert len(tried) == 40
    for point in tried:
        assert torch.allclose(threat.distance(point, x), torch.tensor(0.4, dtype=torch.float64), rtol=3e-6, atol=0)


def test_the_start_under_linf_is_stripes_of_both_signs():
    net = net_for((3, 8, 30))
    x, y = right_images(net, (3, 8, 30), 10)
    x = 0.3 + 0.4 * x
    start = Square(threat=Linf(epsilon=0.1), queries=1)(net, x, y, noise=noise_for(10)) - x
    assert torch.allclose(start.abs(), torch.full_like(x, 0.1))
    signs = start.sign()
    assert (signs == signs[:, :, :1]).all()
    assert abs(signs[:, :, 0].mean()) < 0.1
    assert len({tuple(row.flatten().tolist()) for row in signs[:, :, 0]}) == 10


def test_every_place_of_the_image_is_equally_likely_and_signs_are_those_of_channels():
    x = torch.full((4000, 2, 5, 7), 0.5)
    drawn = CounterNoise(3, torch.arange(4000)).uniform(torch.empty(4000, numbers_of(Linf(), 2)))
    delta = propose(Linf(epsilon=0.1), x, x, 3, drawn) - x
    inside = delta.abs() > 0.05
    assert (inside.flatten(2).sum(2) == 9).all()
    corners = Counter(tuple(np.argwhere(mask)[0].tolist()) for mask in inside[:, 0].numpy())
    assert len(corners) == 3 * 5
    assert max(abs(n - 4000 / 15) for n in corners.values()) < 5 * math.sqrt(4000 / 15)
    signs = delta.sum((2, 3)).sign()
    both = Counter(map(tuple, signs.tolist()))
    assert len(both) == 4
    assert max(abs(n - 1000) for n in both.values()) < 5 * math.sqrt(1000)


def test_the_last_number_below_one_is_still_a_place_of_the_image():
    x = torch.full((1, 1, 32, 29), 0.5)
    for threat in THREATS:
        drawn = torch.full((1, numbers_of(threat, 1)), 1 - 2**-24)
        for side in range(3, 30):
            assert propose(threat, x, x, side, drawn).isfinite().all()


# Strength


def gains(threat, queries: int) -> np.ndarray:
    """The share that was reached of the most that a linear classifier can lose; it is never fooled."""
    shape, weight = (3, 6, 6), torch.randn(2, 108, dtype=torch.float64)
    net = linear_net(weight, torch.tensor([1e3, 0.0], dtype=torch.float64))
    x, y = torch.rand(4, *shape, dtype=torch.float64), torch.zeros(4).long()
    x_adv = Square(threat=threat, queries=queries, rescale_schedule=True)(net, x, y, noise=noise_for(4))
    with torch.no_grad():
        gained = (MARGIN(net(x_adv), y) - MARGIN(net(x), y)).numpy()
    direction = (weight[1] - weight[0]).numpy()
    best = [worst_case(threat, direction, image.flatten().numpy()) for image in x]
    assert (gained <= np.array(best) + 1e-9).all()
    return gained / np.array(best)


def test_under_linf_a_linear_classifier_loses_nearly_all_that_it_can():
    assert gains(Linf(epsilon=0.1), 1200).min() > 0.97


@pytest.mark.parametrize("threat", THREATS[1:], ids=str)
def test_under_l2_and_l1_windows_find_much_of_what_a_linear_classifier_of_white_noise_can_lose(threat):
    few, many = gains(threat, 30).min(), gains(threat, 600).min()
    assert many > 0.4  # a random point of the ball: a tenth
    assert many > 1.5 * few


@threats
def test_more_queries_never_help_the_defender(threat):
    shape = (3, 6, 6)
    net = net_for(shape)
    x, y = right_images(net, shape, 20)
    before, stood = torch.full((20,), -torch.inf, dtype=torch.float64), torch.ones(20, dtype=torch.bool)
    for queries in (1, 2, 3, 10, 64, 65, 66, 200):
        x_adv = Square(threat=threat, queries=queries)(net, x, y, noise=noise_for(20))
        with torch.no_grad():
            logits = net(x_adv)
        values, stands = MARGIN(logits, y), logits.argmax(1) == y
        assert (values >= before).all()
        assert not (stands & ~stood).any()
        before, stood = values, stands
    assert 0 < stood.sum() < 20


def test_a_point_that_is_misclassified_is_kept_whatever_its_loss():
    net = net_for((3, 6, 6))
    x, y = right_images(net, (3, 6, 6), 20)

    def upside_down(logits, labels):
        return -MARGIN(logits, labels)

    x_adv = Square(threat=Linf(epsilon=0.2), queries=100)(net, x, y, loss=upside_down, noise=noise_for(20))
    with torch.no_grad():
        assert (net(x_adv).argmax(1) != y).float().mean() > 0.5


def test_losses_that_are_nan_are_never_taken_and_images_stay_finite():
    net = net_for((3, 6, 6))
    x, y = right_images(net, (3, 6, 6), 4)
    x_adv = Square(queries=20)(net, x, y, loss=lambda logits, labels: logits[:, 0] * torch.nan, noise=noise_for(4))
    with torch.no_grad():
        fooled = net(x_adv).argmax(1) != y
    assert torch.equal(x_adv[~fooled], x[~fooled])


# Cost, and independence of the batch


@threats
def test_an_example_does_not_depend_on_its_batch_its_place_or_who_left(threat, monkeypatch):
    shape = (3, 6, 6)
    net = net_for(shape)
    x, y = right_images(net, shape, 40)
    attack = Square(threat=threat, queries=40, restarts=2)

    def of(rows):
        return attack(net, x[rows], y[rows], noise=CounterNoise(0, rows))

    monkeypatch.setattr(standing, "LEAST", 10**6)
    whole = of(torch.arange(40))
    monkeypatch.setattr(standing, "LEAST", 1)
    assert torch.allclose(of(torch.arange(40)), whole, rtol=0, atol=1e-9)
    order = torch.randperm(40)
    assert torch.allclose(of(order), whole[order], rtol=0, atol=1e-9)
    for rows in (order[:7], order[7:]):
        assert torch.allclose(of(rows), whole[rows], rtol=0, atol=1e-9)


def test_examples_that_are_broken_leave_and_each_query_is_one_forward():
    net = net_for((3, 6, 6))
    x, y = right_images(net, (3, 6, 6), 40)
    read = counting(net)
    x_adv = Square(threat=Linf(epsilon=0.1), queries=120)(net, x, y, noise=noise_for(40))
    sizes = list(read())
    with torch.no_grad():
        stands = int((net(x_adv).argmax(1) == y).sum())
    assert 0 < stands < 20
    assert len(sizes) == 120
    assert sizes[0] == 40
    assert sizes == sorted(sizes, reverse=True)
    assert stands <= sizes[-1] <= 2 * stands


def test_nobody_standing_ends_the_search():
    net = net_for((3, 6, 6))
    x, y = right_images(net, (3, 6, 6), 10)
    read = counting(net)
    Square(threat=Linf(epsilon=1), queries=500, restarts=3)(net, x, (y + 1) % CLASSES, noise=noise_for(10))
    assert len(read()) < 20


def test_restarts_go_on_with_who_stands_and_keep_what_was_found():
    net = net_for((3, 6, 6))
    x, y = right_images(net, (3, 6, 6), 40)
    once, thrice = (Square(threat=Linf(epsilon=0.06), queries=60, restarts=n) for n in (1, 3))
    first, read = once(net, x, y, noise=noise_for(40)), counting(net)
    more = thrice(net, x, y, noise=noise_for(40))
    sizes = list(read())
    with torch.no_grad():
        fooled, again = net(first).argmax(1) != y, net(more).argmax(1) != y
        gained = MARGIN(net(more), y) - MARGIN(net(first), y)
    assert len(sizes) == 180
    assert sizes[60] < 40
    assert torch.equal(more[fooled], first[fooled])
    assert again.sum() > fooled.sum()
    assert (gained[~again] >= 0).all()
    assert (gained[~again] > 0).any()


def test_no_gradient_is_asked_for():
    net, batch = tiny_net().eval(), tiny_batch()
    needed = []
    net.register_forward_hook(
        lambda _, arguments, logits: needed.append(arguments[0].requires_grad | logits.requires_grad)
    )
    x_adv = Square(queries=5)(net, batch.x.requires_grad_(), batch.y, noise=noise_of(batch))
    assert needed
    assert not any(needed)
    assert not x_adv.requires_grad


@threats
def test_channels_last_images_give_the_same_result(threat):
    net, batch = tiny_net().eval().double(), tiny_batch()
    x = batch.x.double()
    attack = Square(threat=threat, queries=30)
    plain = attack(net, x, batch.y, noise=noise_of(batch))
    last = attack(net, x.to(memory_format=torch.channels_last), batch.y, noise=noise_of(batch))
    assert torch.allclose(plain, last, rtol=0, atol=1e-9)


def test_a_trick_for_crafting_is_refused():
    net, batch = tiny_net().eval(), tiny_batch()
    with pytest.raises(UserError, match="crafting.*none with square"):
        Square(queries=2)(net, batch.x, batch.y, crafting=object())  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"queries": 0}, {"p_init": 0}, {"p_init": 1.5}, {"restarts": 0}], ids=str)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Square(**wrong)


# The reference


@pytest.mark.slow
@pytest.mark.skipif(not (ORACLE.is_dir() and IMAGES.is_file()), reason="no ../shared")
def test_as_many_images_stand_as_with_the_reference(monkeypatch):
    net = load(f"{ORACLE / 'net.py'}:build", ORACLE / "weights.pt").eval()
    examples = Examples.of(load_images(str(IMAGES), "test").head(128), None)
    verdicts = json.loads((ORACLE / "verdicts.json").read_text())
    reference = torch.tensor(verdicts["alone"]["square"]["robust"]).bool()
    cascade = torch.tensor(verdicts["cascade"]["robust"]).bool()
    # Those that withstand the cascade would cost 29 * 5000 forwards, to stand as they must
    rows = (torch.tensor(verdicts["clean_correct"]).bool() & ~cascade).nonzero().flatten()
    x, y = examples.images(rows, torch.device("cpu")), examples.labels[rows]
    monkeypatch.setattr(standing, "LEAST", 4)
    read = counting(net)
    x_adv = Square(threat=Linf(epsilon=8 / 255))(net, x, y, noise=CounterNoise(0, rows))
    forwards = sum(read())
    with torch.no_grad():
        stands = net(x_adv).argmax(1) == y
    assert abs(int(stands.sum()) - int(reference[rows].sum())) <= 2
    # The reference's 5000 queries, start, clean and last forward; batches of powers of two cost up to half more
    assert forwards < 1.5 * (verdicts["alone"]["square"]["forwards"] - 29 * 5003)
