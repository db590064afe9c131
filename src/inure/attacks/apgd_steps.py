"""The two ways in which APGD moves and adapts: step sizes that halve (Linf, L2), steps that grow sparser (L1)."""

from __future__ import annotations

from typing import Protocol

from ..libraries import Tensor, torch
from ..threat import Geometry, movable
from ..types import Images, PerExample
from .standing import Standing

_MOMENTUM = 0.75
_FIRST_SHARE = 0.2
_SPARSER = 1.5
"""A step moves this many times fewer coordinates than the best perturbation has; also the factor of a shorter step."""
_SHORTEST = 10
_MUCH_SPARSER = 0.95


class Climber(Protocol):
    """What a rule sees of the run that it steers; tensors are (B, ...)."""

    threat: Geometry
    x: Images
    x_adv: Images
    before: Images
    grad: Tensor
    values: PerExample
    x_best: Images
    loss_best: PerExample


class Halving:
    """Momentum; an example that rises too seldom halves its step and returns to its best.

    Args:
        first_step: (B,) in the units of epsilon.
        steps: Length of the run, from which the checkpoints follow.
        rho: Least share of rising steps that keeps the step size.
    """

    def __init__(self, first_step: Tensor, steps: int, rho: float) -> None:
        self._size, self._rho = first_step, rho
        self._length = self.checkpoint = max(int(0.22 * steps), 1)
        self._less, self._least = max(int(0.03 * steps), 1), max(int(0.06 * steps), 1)

    def begin(self, run: Climber) -> None:
        """After the first gradient."""
        self._at_checkpoint, self._rises = run.values, torch.zeros_like(run.values)
        self._halved = torch.ones_like(run.values, dtype=torch.bool)

    def move(self, run: Climber, k: int) -> Images:
        """The next point; ``k`` counts from 1."""
        target = run.threat.project(run.threat.ascend(run.x_adv, run.grad, self._size), run.x)
        share = _MOMENTUM if k > 1 else 1.0
        moved = run.x_adv + share * (target - run.x_adv) + (1 - share) * (run.x_adv - run.before)
        return run.threat.project(moved, run.x)

    def watch(self, rose: Tensor) -> None:
        """(B,) whether the last step raised the loss."""
        self._rises = self._rises + rose

    def adapt(self, run: Climber) -> Tensor:
        """At the checkpoint: (B,) who returns to the best point. Sets the next checkpoint."""
        stuck = ~self._halved & (run.loss_best <= self._at_checkpoint)
        self._halved = (self._rises < self._rho * self._length) | stuck
        self._size = torch.where(self._halved, self._size / 2, self._size)
        self._at_checkpoint, self._rises = run.loss_best, torch.zeros_like(self._rises)
        self._length = max(self._length - self._less, self._least)
        self.checkpoint += self._length
        return self._halved

    def narrow(self, left: Standing) -> None:
        """Forget who has left."""
        self._size, self._at_checkpoint, self._rises, self._halved = left.of(
            self._size, self._at_checkpoint, self._rises, self._halved
        )


class Sparse:
    """L1: no momentum; a step moves the coordinates of largest gradient, as many as the best perturbation suggests.

    At first a fifth of the coordinates, then at every checkpoint (each 4 % of the steps) 1.5 times fewer than differ
    from x at the best point. Where that number fell by 5 % since the last checkpoint the example returns to its best
    point with the first step size, else the step is 1.5 times shorter, down to a tenth.

    Note:
        Coordinates at 0 or 1 that would leave are not chosen, as in ``L1.ascend``; the reference chooses them too.
        With few coordinates to a step it can be caught there: all that it chooses is stuck, and it never moves.

    Args:
        first_step: (B,) in the units of epsilon.
        steps: Length of the run, from which the checkpoints follow.
        from_start: Whether the start already tells how many coordinates to move: when it is no plain noise.
    """

    def __init__(self, first_step: Tensor, steps: int, *, from_start: bool) -> None:
        self._first = self._size = first_step
        self._from_start = from_start
        self._length = self.checkpoint = max(int(0.04 * steps), 1)

    def begin(self, run: Climber) -> None:
        """After the first gradient."""
        pixels = run.x[0].numel()
        self._differing = torch.full_like(self._size, pixels)
        self._share = torch.full_like(self._size, _FIRST_SHARE)
        if self._from_start:
            differing = _differing(run.x_adv, run.x).to(self._size)
            # From x itself: as if it were noise
            self._share = torch.where(differing > 0, differing / pixels / _SPARSER, self._share)
            self._differing = torch.where(differing > 0, differing, self._differing)

    def move(self, run: Climber, k: int) -> Images:
        """The next point."""
        grad = movable(run.x_adv, run.grad).flatten(1)
        count = (self._share * grad.shape[1]).long().clamp_min(1)
        least = grad.abs().sort(1, descending=True).values.gather(1, count[:, None] - 1)
        signs = torch.where(grad.abs() >= least, grad.sign(), 0.0)
        step = self._size[:, None] * signs / signs.abs().sum(1, keepdim=True).clamp_min(1)
        return run.threat.project(run.x_adv + step.view_as(run.x_adv), run.x)

    def watch(self, rose: Tensor) -> None:
        """Nothing to count."""

    def adapt(self, run: Climber) -> Tensor:
        """At the checkpoint: (B,) who returns to the best point. Sets the next checkpoint."""
        differing = _differing(run.x_best, run.x).to(self._size)
        sparser = differing < _MUCH_SPARSER * self._differing
        shorter = torch.maximum(self._size / _SPARSER, self._first / _SHORTEST)
        self._size = torch.where(sparser, self._first, shorter)
        self._share, self._differing = differing / run.x[0].numel() / _SPARSER, differing
        self.checkpoint += self._length
        return sparser

    def narrow(self, left: Standing) -> None:
        """Forget who has left."""
        self._first, self._size, self._share, self._differing = left.of(
            self._first, self._size, self._share, self._differing
        )


def _differing(x_adv: Images, x: Images) -> Tensor:
    """(B,) how many coordinates are not those of ``x``."""
    return (x_adv != x).flatten(1).sum(1)
