"""The nearest point on a hyperplane inside [0, 1], in Linf, L2 and L1: exact, by one sort.

The plane is normal . d = need, seen from x; d is what has to be found. Along the normal every pixel has room up to the
side of [0, 1] that it moves towards. All functions take flat float tensors (B, D), and (B,) for numbers per example.
"""

from __future__ import annotations

from ..libraries import Tensor, torch
from ..threat import Geometry

_TINY = 1e-30


def toward_plane(threat: Geometry, x: Tensor, normal: Tensor, need: Tensor) -> Tensor:
    """The d of least norm with normal . d = need and x + d in [0, 1].

    Linf: min(t, room) for every pixel, L2: min(t |normal|, room), with the one t that fits; L1: the pixels with the
    largest |normal| go as far as they can, one after the other, the last one in part.

    Args:
        threat: Whose norm; its radius does not matter.
        x: (B, D) in [0, 1].
        normal: (B, D).
        need: (B,), of either sign.

    Returns:
        (B, D). Where [0, 1] does not reach the plane: the corner that comes nearest to it. Zero for a normal of zero.
    """
    direction = normal * need.sign()[:, None]
    room = torch.where(direction > 0, 1 - x, x).clamp_min(0)
    need, weight = need.abs()[:, None], normal.abs()
    if threat.kind == "l1":
        size = _largest_first(weight, room, need)
    else:
        size = _level(weight, torch.ones_like(weight) if threat.kind == "linf" else weight, room, need)
    return direction.sign() * size


def dual_norm(threat: Geometry, v: Tensor) -> Tensor:
    """(B,) the norm of (B, D) that divides a gap to give a distance: L1 for Linf, L2 for L2, Linf for L1."""
    return torch.linalg.vector_norm(v, {"linf": 1, "l2": 2, "l1": torch.inf}[threat.kind], dim=1)


def _level(weight: Tensor, speed: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """min(t * speed, room) with sum(weight * that) = need.

    The sum is linear in t between the points where a pixel is out of room. With these sorted, the first one at which
    it reaches ``need`` ends the segment that holds t: pixels before it are full, the others still move.
    """
    full_at = torch.where(weight > 0, room / speed.clamp_min(_TINY), 0.0)
    full_at, order = full_at.sort(1)
    full, slope = (weight * room).gather(1, order), (weight * speed).gather(1, order)
    full_before = full.cumsum(1) - full
    moving = slope.flip(1).cumsum(1).flip(1)
    reached = full_before + moving * full_at >= need
    segment = reached.to(torch.int8).argmax(1, keepdim=True)
    t = (need - full_before.gather(1, segment)) / moving.gather(1, segment).clamp_min(_TINY)
    return torch.where(reached.any(1, keepdim=True), torch.minimum(t.clamp_min(0) * speed, room), room)


def _largest_first(weight: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """Each pixel's share of ``need``, the ones that gain most for their way first."""
    weight, order = weight.sort(1, descending=True)
    room = room.gather(1, order)
    full = weight * room
    missing = need - (full.cumsum(1) - full)
    size = torch.minimum((missing / weight.clamp_min(_TINY)).clamp_min(0), room)
    return torch.zeros_like(size).scatter_(1, order, size)
