"""Counter-based noise: the right distributions, and a function of (seed, row, stream, draw) alone."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from inure.noise import CounterNoise, GeneratorNoise, mix_integers

MASK, GOLDEN = (1 << 64) - 1, 0x9E3779B97F4A7C15


def slow_mix(z: int) -> int:
    """SplitMix64's finaliser in Python's integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def draws(noise, rows: int, columns: int, draw: str = "uniform") -> np.ndarray:
    return getattr(noise, draw)(torch.empty(rows, columns, dtype=torch.float64)).numpy()


def test_mix_integers_is_splitmix64():
    # First output for state 0 of Vigna's reference splitmix64.c
    assert mix_integers(0) == 0xE220A8397B1DCDAF
    assert mix_integers(0) == slow_mix(GOLDEN)


def test_uniform_equals_a_slow_version_in_python_integers():
    rows = torch.tensor([0, 1, 7, 2**40, 2**62])
    found = draws(CounterNoise(5, rows, stream=3), 5, 6)
    key = mix_integers(mix_integers(5, 3), 1)
    for i, row in enumerate(rows.tolist()):
        for j in range(6):
            start = slow_mix((row * GOLDEN + key) & MASK)
            assert found[i, j] == (slow_mix((start + j * GOLDEN) & MASK) >> 40) / 2**24


def test_mix_integers_tells_apart_order_length_and_sign():
    values = [(), (0,), (0, 0), (1,), (-1,), (1, 2), (2, 1), (1, 2, 0), (2**64 - 2, 1)]
    assert len({mix_integers(*v) for v in values}) == len(values)


def test_uniform_is_uniform_over_rows_and_over_pixels():
    u = draws(CounterNoise(0, torch.arange(400)), 400, 500)
    assert u.min() >= 0
    assert u.max() < 1
    assert stats.kstest(u.ravel(), "uniform").statistic < 2.5 / math.sqrt(u.size)
    counts = np.bincount((u * 256).astype(int).ravel(), minlength=256)
    # 255 degrees of freedom: 400 has probability 1e-8
    assert stats.chisquare(counts).statistic < 400
    for along in (u[:, 0], u[0], u.diagonal()):
        assert stats.kstest(along, "uniform").statistic < 2.5 / math.sqrt(len(along))
    assert np.array_equal(u * 2**24, np.round(u * 2**24))


def test_neighbouring_rows_pixels_draws_seeds_and_streams_are_uncorrelated():
    rows = torch.arange(300)
    noise = CounterNoise(0, rows)
    u, again = draws(noise, 300, 300), draws(noise, 300, 300)
    others = [
        draws(CounterNoise(1, rows), 300, 300),
        draws(CounterNoise(0, rows, stream=1), 300, 300),
        draws(CounterNoise(0, rows + 300), 300, 300),
        again,
        np.roll(u, 1, axis=0),
        np.roll(u, 1, axis=1),
        u.T,
    ]
    for other in others:
        off_diagonal = ~np.eye(300, dtype=bool)
        assert abs(np.corrcoef(u[off_diagonal], other[off_diagonal])[0, 1]) < 5 / 300
        assert (u[off_diagonal] == other[off_diagonal]).mean() < 1e-3


@pytest.mark.parametrize("draw", ["uniform", "normal"])
def test_noise_does_not_depend_on_the_batch(draw):
    rows, order = torch.arange(20) * 3, torch.randperm(20)
    whole = draws(CounterNoise(1, rows, 2), 20, 12, draw)
    np.testing.assert_array_equal(draws(CounterNoise(1, rows[order], 2), 20, 12, draw), whole[order.numpy()])
    np.testing.assert_array_equal(draws(CounterNoise(1, rows[4:5], 2), 1, 12, draw), whole[4:5])
    padded = torch.cat([rows[:3], rows[:1].repeat(5)])
    np.testing.assert_array_equal(draws(CounterNoise(1, padded, 2), 8, 12, draw)[:3], whole[:3])
    float32 = getattr(CounterNoise(1, rows, 2), draw)(torch.empty(20, 3, 2, 2))
    np.testing.assert_allclose(float32.flatten(1), whole, atol=2e-6)


@pytest.mark.parametrize("draw", ["uniform", "normal"])
def test_the_generator_of_torch_plays_no_part(draw):
    first = draws(CounterNoise(1, torch.arange(4)), 4, 5, draw)
    state = torch.get_rng_state()
    np.testing.assert_array_equal(draws(CounterNoise(1, torch.arange(4)), 4, 5, draw), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_memory_format_of_the_images_changes_nothing():
    rows, like = torch.arange(4), torch.empty(4, 3, 5, 5)
    plain = CounterNoise(0, rows).uniform(like)
    assert torch.equal(CounterNoise(0, rows).uniform(like.to(memory_format=torch.channels_last)), plain)


@pytest.mark.parametrize("noise", [CounterNoise(0, torch.arange(400)), GeneratorNoise()])
def test_normal_is_standard_normal(noise):
    z = draws(noise, 400, 500, "normal")
    n = z.size
    assert np.isfinite(z).all()
    assert abs(z.mean()) < 5 / math.sqrt(n)
    assert abs(z.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((z**3).mean()) < 5 * math.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < 5 * math.sqrt(96 / n)
    assert stats.kstest(z.ravel(), "norm").statistic < 2.5 / math.sqrt(n)
    assert abs(np.corrcoef(z[:, 1:].ravel(), z[:, :-1].ravel())[0, 1]) < 5 / math.sqrt(n)
