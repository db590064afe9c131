"""Where attacks take their randomness from.

Training draws from torch's generator, which ``train`` seeds before each step. Evaluation draws from
``CounterNoise``, a function of (seed, example, attack, draw) alone: no verdict depends on the batch size, the order
of the examples, a resume or the number of processes.
"""

from __future__ import annotations

from .libraries import Tensor, torch

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


class GeneratorNoise:
    """Draws from torch's default generator of the device."""

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform on [0, 1), shaped like ``like``."""
        return torch.rand_like(like)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal, shaped like ``like``."""
        return torch.randn_like(like)


class CounterNoise:
    """Counter-based noise: the same numbers for the same (seed, example, stream), whatever the batch.

    A SplitMix64 finaliser (Steele, Lea and Flood, 2014) hashes seed, stream, draw, example and coordinate. The
    n-th draw of an attack is its n-th call, so restarts differ by themselves.

    Args:
        seed: The evaluation's seed.
        index: (B,) int64 rows of the data set.
        stream: A number that tells attacks apart.
    """

    def __init__(self, seed: int, index: Tensor, stream: int = 0) -> None:
        self.index = index
        self._key = mix_integers(seed, stream)
        self._draws = 0

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform on [0, 1) in steps of 2^-24, shaped like ``like``, whose first axis is the example."""
        self._draws += 1
        key = mix_integers(self._key, self._draws)
        per_example = _mix(self.index.to(like.device) * _signed(_GOLDEN) + _signed(key))
        coordinates = torch.arange(like[0].numel(), device=like.device) * _signed(_GOLDEN)
        bits = _mix(per_example[:, None] + coordinates)
        return (_shift_right(bits, 40).to(like.dtype) * 2.0**-24).view_as(like)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal by Box and Muller's transform, shaped like ``like``."""
        radius = (-2 * torch.log1p(-self.uniform(like))).sqrt()
        return radius * torch.cos(2 * torch.pi * self.uniform(like))


def mix_integers(*values: int) -> int:
    """One 64-bit number from several: how seeds of steps, streams and epochs are made from the user's."""
    state = 0
    for value in values:
        state = (state ^ (value & _MASK)) + _GOLDEN & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift_right(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift_right(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift_right(z, 31)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """A logical shift: torch's int64 shift copies the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
