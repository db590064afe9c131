"""Which examples of a batch an attack still works on: the broken ones leave, the rest move together.

How many rows a net sees is the affair of what calls it: in an evaluation ``Metered`` pads them to few sizes.

Use, at a natural point of a search (between targets and restarts, at a checkpoint)::

    left = Standing(~broken)                       # waits for the device: one number comes to the host
    if not left.size:                              # nobody stands
        break
    part = search(model, *left.of(x, y), threat=left.threat(threat), noise=left.noise(noise))
    x_adv, broken = left.put(x_adv, part), left.put(broken, fooled)
"""

from __future__ import annotations

from typing import TypeVar

from ..libraries import Tensor, torch
from ..threat import Geometry
from ..types import Criterion, Noise

LEAST = 2
"""Rows at least, where the batch has them: sums over a single image may be cut in other parts, with other last bits."""
AnyGeometry = TypeVar("AnyGeometry", bound=Geometry)
Loss = TypeVar("Loss", bound=Criterion)
Number = TypeVar("Number", float, Tensor, float | Tensor, float | Tensor | None)


class Standing:
    """The rows of a batch where ``mask`` holds; a single one comes twice.

    The copy does what the row does, and ``put`` drops it.

    Args:
        mask: (B,) bool, true for the rows that stay.
        real: How many of the B rows, from the front, are no copies: the ``size`` of the ``Standing`` that the batch
            came from. None: all.
    """

    def __init__(self, mask: Tensor, real: int | None = None) -> None:
        rows = mask[:real].nonzero().flatten()
        self.size = len(rows)
        """How many rows stand, copies not counted."""
        length = max(self.size, min(LEAST, len(mask))) if self.size else 0
        self.rows = torch.cat([rows, rows[-1:].expand(length - self.size)])
        """(P,) int64 positions in the batch; a single one comes twice."""
        self.smaller = length < len(mask)
        """Whether the part is smaller than the batch: else there is nothing to gain from it."""
        self._whole = len(mask)

    def of(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The rows of each (B, ...), as (P, ...)."""
        return tuple(t[self.rows] for t in tensors)

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        """A copy of ``whole`` (B, ...) with the rows that stand replaced by those of ``part`` (P, ...)."""
        whole = whole.clone()
        whole[self.rows[: self.size]] = part[: self.size].to(whole.dtype)
        return whole

    def threat(self, threat: AnyGeometry) -> AnyGeometry:
        """The same geometry; of radii (B,) those of the rows."""
        return threat.with_epsilon(self.number(threat.epsilon))

    def number(self, value: Number) -> Number:
        """The same number; of (B,) those of the rows."""
        if isinstance(value, Tensor) and value.ndim:
            return value[self.rows.to(value.device)]  # type: ignore[return-value]
        return value

    def loss(self, loss: Loss) -> Loss:
        """The same loss; of one that knows something per example (it has ``of``, see ``targeted.py``) the rows'."""
        return loss.of(self.rows) if hasattr(loss, "of") else loss  # type: ignore[attr-defined]

    def noise(self, noise: Noise) -> Noise:
        """Draws for the part: those that the rows get in the whole batch, so that who else stands changes nothing."""
        return _Part(noise, self.rows, self._whole)


class _Part:
    """Noise drawn for the whole batch and cut down to some of its rows."""

    def __init__(self, noise: Noise, rows: Tensor, whole: int) -> None:
        self._noise, self._rows, self._whole = noise, rows, whole

    def uniform(self, like: Tensor) -> Tensor:
        return self._noise.uniform(self._for_all(like))[self._rows]

    def normal(self, like: Tensor) -> Tensor:
        return self._noise.normal(self._for_all(like))[self._rows]

    def _for_all(self, like: Tensor) -> Tensor:
        return like.new_empty(self._whole, *like.shape[1:])
