"""Geometry: projections against exact certificates and slow solvers, random starts against their distributions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from closed_forms import worst_case
from inure.noise import CounterNoise, GeneratorNoise
from inure.settings.errors import UserError
from inure.threat import L1, L2, Geometry, Linf, describe_threat, parse_threat

KINDS = [Linf, L2, L1]
SHAPE = (3, 2, 3)
PIXELS = math.prod(SHAPE)


@st.composite
def situations(draw, kinds=KINDS):
    """A threat model, images with some pixels at the bounds, and points near, far and outside of the box."""
    kind = draw(st.sampled_from(kinds))
    largest = {"linf": 1.0, "l2": 2.0, "l1": 6.0}[kind.model_fields["kind"].default]
    epsilon = draw(st.one_of(st.just(0.0), st.floats(1e-4, largest)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.rand(5, *SHAPE, generator=generator, dtype=torch.float64) * 1.5 - 0.25
    spread = draw(st.sampled_from([0.0, 1e-3, 0.1, 1.0, 30.0]))
    sparse = torch.rand(5, *SHAPE, generator=generator) < draw(st.sampled_from([0.1, 0.5, 1.0]))
    x = x.clamp(0, 1)
    delta = torch.randn(5, *SHAPE, generator=generator, dtype=torch.float64) * spread * sparse
    return kind(epsilon=epsilon), x, x + delta


def norms(threat: Geometry, delta: Tensor) -> np.ndarray:
    order = {"linf": np.inf, "l2": 2, "l1": 1}[threat.kind]
    return np.linalg.norm(delta.flatten(1).numpy(), ord=order, axis=1)


@settings(max_examples=200, deadline=None)
@given(situations())
def test_projection_lands_in_ball_and_box_and_stays_where_it_landed(situation):
    threat, x, v = situation
    p = threat.project(v, x)
    assert norms(threat, p - x).max() <= float(threat.epsilon) + 1e-6
    assert p.min() >= 0
    assert p.max() <= 1
    assert torch.equal(threat.project(p, x), p)


@settings(max_examples=100, deadline=None)
@given(situations(), st.floats(0, 0.999))
def test_a_point_already_inside_is_unchanged(situation, share):
    threat, x, v = situation
    p = threat.project(v, x)
    inside = torch.lerp(x, p, torch.tensor(share, dtype=x.dtype)).clamp(0, 1)
    assert torch.equal(threat.project(inside, x), inside)
    assert torch.equal(threat.project(x, x), x)


@settings(max_examples=60, deadline=None)
@given(situations(), st.integers(0, 2**31))
def test_radii_per_example_equal_a_loop_over_the_examples(situation, seed):
    threat, x, v = situation
    radii = torch.rand(len(x), generator=torch.Generator().manual_seed(seed), dtype=x.dtype) * threat.epsilon
    noise = [CounterNoise(seed, torch.arange(len(x))), *(CounterNoise(seed, torch.tensor([i])) for i in range(len(x)))]
    together = threat.with_epsilon(radii)
    alone = [threat.with_epsilon(float(radius)) for radius in radii]
    projected = torch.cat([t.project(v[i : i + 1], x[i : i + 1]) for i, t in enumerate(alone)])
    assert torch.allclose(together.project(v, x), projected, rtol=0, atol=1e-12)
    started = torch.cat([t.random_start(x[i : i + 1], noise[i + 1]) for i, t in enumerate(alone)])
    assert torch.allclose(together.random_start(x, noise[0]), started, rtol=0, atol=1e-12)
    grad = torch.randn_like(x)
    climbed = torch.cat([t.ascend(v[[i]], grad[[i]], float(radii[i])) for i, t in enumerate(alone)])
    assert torch.allclose(together.ascend(v, grad, radii), climbed, rtol=0, atol=1e-12)


@settings(max_examples=150, deadline=None)
@given(situations(kinds=[Linf, L1]))
def test_linf_and_l1_projections_are_the_nearest_points(situation):
    """p is the nearest point of a convex set to v iff no point c of it has (v - p) . (c - p) > 0."""
    threat, x, v = situation
    p = threat.project(v, x)
    for i in range(len(x)):
        pull, reached = (v - p)[i].flatten().numpy(), (p - x)[i].flatten().numpy()
        gain = worst_case(threat, pull, x[i].flatten().numpy()) - pull @ reached
        # L1 aims a relative 1e-6 inside its ball, which costs at most that much of the pull
        assert gain <= 1e-6 * (1 + np.abs(pull).max() * float(threat.epsilon))


@settings(max_examples=60, deadline=None)
@given(situations(kinds=[L1]))
def test_l1_projection_agrees_with_bisection_on_the_multiplier(situation):
    threat, x, v = situation
    size, sign = (v - x).abs(), (v - x).sign()
    room = torch.where(sign > 0, 1 - x, x)

    def shrunk(level: Tensor) -> Tensor:
        return torch.minimum((size - level).clamp_min(0), room)

    low, high = torch.zeros(len(x), 1, 1, 1, dtype=x.dtype), size.amax((1, 2, 3), keepdim=True)
    for _ in range(200):
        level = (low + high) / 2
        outside = shrunk(level).sum((1, 2, 3), keepdim=True) > threat.epsilon
        low, high = torch.where(outside, level, low), torch.where(outside, high, level)
    assert torch.allclose(threat.project(v, x), x + sign * shrunk(high), rtol=0, atol=3e-6)


@settings(max_examples=60, deadline=None)
@given(situations(kinds=[Linf]))
def test_linf_projection_is_exact_pixel_by_pixel(situation):
    threat, x, v = situation
    low, high = np.maximum(x.numpy() - threat.epsilon, 0), np.minimum(x.numpy() + threat.epsilon, 1)
    expected = np.minimum(np.maximum(v.numpy(), low), high)
    np.testing.assert_array_equal(threat.project(v, x).numpy(), expected)


def test_l2_projection_is_the_nearest_point_of_the_ball_where_the_box_is_far():
    x = torch.full((50, *SHAPE), 0.5, dtype=torch.float64)
    delta = torch.randn(50, *SHAPE, dtype=torch.float64)
    moved = L2(epsilon=0.3).project(x + delta, x) - x
    expected = delta.numpy() * np.minimum(1, 0.3 / norms(L2(), delta))[:, None, None, None]
    np.testing.assert_allclose(moved.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("threat", [Linf(epsilon=8 / 255), L2(epsilon=0.5), L1(epsilon=12)])
def test_projection_is_idempotent_and_inside_in_float32_at_image_size(threat):
    x = torch.rand(8, 3, 32, 32)
    p = threat.project(x + torch.randn_like(x), x)
    assert torch.equal(threat.project(p, x), p)
    assert norms(threat, p.double() - x.double()).max() <= threat.epsilon + 1e-6
    assert p.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_epsilon_zero_leaves_only_the_image_itself(kind):
    x = torch.rand(4, *SHAPE)
    threat = kind(epsilon=0)
    assert torch.equal(threat.project(x + torch.randn_like(x), x), x)
    assert torch.equal(threat.random_start(x, GeneratorNoise()), x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", [GeneratorNoise(), CounterNoise(3, torch.arange(4000))])
def test_random_starts_are_uniform_in_the_ball(kind, noise):
    """The box is out of reach. (||d|| / epsilon)^dimensions is uniform; one coordinate has its Beta distribution."""
    x = torch.full((4000, *SHAPE), 0.5, dtype=torch.float64)
    threat = kind(epsilon=0.3)
    delta = threat.random_start(x, noise) - x
    volume = (norms(threat, delta) / 0.3) ** PIXELS
    assert stats.kstest(volume, "uniform").statistic < 2.5 / math.sqrt(4000)
    size = (delta.abs() / 0.3).flatten(1).numpy()
    for pixel in (0, 7, PIXELS - 1):
        share, beta = {
            "linf": (size[:, pixel], stats.beta(1, 1)),
            "l2": (size[:, pixel] ** 2, stats.beta(0.5, (PIXELS + 1) / 2)),
            "l1": (size[:, pixel], stats.beta(1, PIXELS)),
        }[threat.kind]
        assert stats.kstest(share, beta.cdf).statistic < 2.5 / math.sqrt(4000)
    z_scores = delta.mean(0) / delta.std(0) * math.sqrt(4000)
    assert z_scores.abs().max() < 5


@pytest.mark.parametrize("kind", KINDS)
def test_random_starts_near_the_bounds_stay_in_ball_and_box_and_differ(kind):
    x = torch.rand(64, *SHAPE, dtype=torch.float64).round()
    threat = kind(epsilon=0.3)
    first, second = (threat.random_start(x, GeneratorNoise()) for _ in range(2))
    assert norms(threat, first - x).max() <= 0.3 + 1e-6
    assert first.min() >= 0
    assert first.max() <= 1
    assert ((first - x).abs().flatten(1).sum(1) > 0).all()
    assert ((first - second).abs().flatten(1).sum(1) > 0).all()


@settings(max_examples=40, deadline=None)
@given(situations())
def test_distances_agree_with_numpy(situation):
    threat, x, v = situation
    np.testing.assert_allclose(threat.distance(v, x).numpy(), norms(threat, v - x), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_has_its_length_goes_uphill_and_a_zero_gradient_does_not_move(kind):
    threat = kind()
    x = torch.full((6, *SHAPE), 0.5, dtype=torch.float64)
    grad = torch.randn_like(x)
    step = threat.ascend(x, grad, 0.01) - x
    np.testing.assert_allclose(norms(threat, step), 0.01, rtol=1e-9)
    # Steepest: no vector of that length gains more (L1 moves one of 18 coordinates)
    best = [0.01 * np.linalg.norm(g, ord={"linf": 1, "l2": 2, "l1": np.inf}[threat.kind]) for g in grad.flatten(1)]
    np.testing.assert_allclose((step * grad).flatten(1).sum(1), best, rtol=1e-9)
    assert torch.equal(threat.ascend(x, torch.zeros_like(x), 0.01), x)


def test_an_l1_step_moves_the_asked_share_of_pixels_and_none_that_would_leave_the_box():
    x = torch.rand(6, 3, 10, 10).round()
    grad = torch.randn_like(x)
    step = L1(sparsity=0.1).ascend(x, grad, 0.5) - x
    assert ((step != 0).flatten(1).sum(1) == 30).all()
    moved = x + step
    assert moved.min() >= 0
    assert moved.max() <= 1


def test_a_pixel_that_the_l1_projection_left_at_its_bound_is_not_stepped_on_again():
    x, grad = torch.full((2, *SHAPE), 0.4), torch.ones(2, *SHAPE)
    delta = torch.full_like(x, 0.3)
    delta[:, 0, 0, 0] = 9
    grad[:, 0, 0, 0] = 100
    delta[1], grad[1] = -delta[1], -grad[1]
    threat = L1(epsilon=2)
    p = threat.project(x + delta, x)
    assert torch.allclose(threat.distance(p, x), torch.tensor(2.0), atol=1e-5)
    assert torch.allclose(p[:, 0, 0, 0], torch.tensor([1.0, 0.0]), atol=2e-6)
    step = threat.ascend(p, grad, 0.1) - p
    assert torch.equal(step[:, 0, 0, 0], torch.zeros(2))
    assert torch.allclose(threat.distance(p + step, p), torch.tensor(0.1))


@pytest.mark.parametrize(
    ("text", "threat"),
    [("linf:8/255", Linf(epsilon=8 / 255)), ("L2:0.5", L2(epsilon=0.5)), ("l1:12", L1()), ("linf:0", Linf(epsilon=0))],
)
def test_a_threat_reads_back_what_it_is_described_as(text, threat):
    assert parse_threat(text) == threat
    assert describe_threat(threat) == text.lower()
    assert parse_threat(describe_threat(threat)) == threat


@pytest.mark.parametrize("text", ["linf", "l3:1", "linf:", "linf:8", "l2:-1", "linf:nan", "linf:eight", ":0.1"])
def test_a_wrong_threat_is_refused_in_one_line_at_its_place(text):
    with pytest.raises(UserError) as caught:
        parse_threat(text, "evaluation.threat")
    assert str(caught.value).startswith("evaluation.threat: got ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_negative_radius_is_refused_and_a_linf_radius_above_one_asks_for_255ths(kind):
    with pytest.raises(UserError, match="epsilon: got -0.1; allowed a number >= 0"):
        kind(epsilon=-0.1)
    with pytest.raises(UserError, match=r"did you mean 8/255\?"):
        Linf(epsilon=8)
