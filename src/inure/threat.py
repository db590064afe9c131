"""Threat models: the set of perturbed images that an adversary may choose from.

A threat model is pure geometry: it knows nothing of models, losses or labels. Images are float tensors
(B, C, H, W) with values in [0, 1], and so is ``epsilon``: write ``8/255``, not 8. The geometry also takes a (B,)
tensor of radii, one per example: ``threat.with_epsilon(tensor)``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator

from .libraries import Tensor, torch
from .settings.config import Real, Settings
from .settings.errors import UserError
from .types import Images, Noise, PerExample

_TINY = 1e-12
_ROUNDING = 2e-7
"""How far a float32 sum may put a projected point outside the L2 ball; verdicts allow 1e-6."""
_INSIDE = 1 - 1e-6
"""Projections onto L2 and L1 balls aim this much inside, so that float32 rounding never leaves the ball."""
_AT_BOUND = 1e-5
"""This near to 0 or 1 a pixel counts as there: the projection onto the L1 ball leaves it up to 1e-6 short."""


class Linf(Settings):
    """All images whose every pixel differs by at most ``epsilon``."""

    kind: Literal["linf"] = "linf"
    epsilon: Real = 8 / 255
    """In [0, 1]."""

    @field_validator("epsilon")
    @classmethod
    def _in_pixel_units(cls, value: float) -> float:
        if value > 1:
            remedy = f"did you mean {value:g}/255?" if value <= 255 else "8/255"
            raise UserError("", value, "0 to 1: pixels are in [0, 1]", remedy)
        return _not_negative(value)

    def with_epsilon(self, epsilon: float | Tensor) -> Self:
        """The same geometry with another radius, a number or (B,)."""
        return self.model_copy(update={"epsilon": epsilon})

    def random_start(self, x: Images, noise: Noise) -> Images:
        """Uniform in the ball, then clamped to [0, 1]."""
        radius = per_image(self.epsilon, x)
        return self.project(x + radius * (2 * noise.uniform(x) - 1), x)

    def ascend(self, x_adv: Images, grad: Tensor, step_size: float | Tensor) -> Images:
        """A step along the sign of the gradient; a zero gradient does not move."""
        return x_adv + per_image(step_size, x_adv) * grad.sign()

    def project(self, x_adv: Images, x: Images) -> Images:
        """The nearest point of the ball and of [0, 1]: ball first, then box."""
        radius = per_image(self.epsilon, x)
        return torch.clamp(torch.clamp(x_adv, x - radius, x + radius), 0, 1)

    def distance(self, x_adv: Images, x: Images) -> PerExample:
        """(B,) largest absolute pixel difference."""
        return (x_adv - x).abs().flatten(1).amax(1)


class L2(Settings):
    """All images within Euclidean distance ``epsilon``."""

    kind: Literal["l2"] = "l2"
    epsilon: Real = 0.5

    _check = field_validator("epsilon")(lambda value: _not_negative(value))

    def with_epsilon(self, epsilon: float | Tensor) -> Self:
        """The same geometry with another radius, a number or (B,)."""
        return self.model_copy(update={"epsilon": epsilon})

    def random_start(self, x: Images, noise: Noise) -> Images:
        """Uniform in the ball (a Gaussian direction, radius epsilon * U^(1/d)), then clamped to [0, 1]."""
        return self.project(x + per_image(self.epsilon, x) * _share(noise, x) * unit(noise.normal(x)), x)

    def ascend(self, x_adv: Images, grad: Tensor, step_size: float | Tensor) -> Images:
        """A step of length ``step_size`` along the gradient; a zero gradient does not move."""
        return x_adv + per_image(step_size, x_adv) * unit(grad)

    def project(self, x_adv: Images, x: Images) -> Images:
        """Scaled into the ball, then clamped to [0, 1].

        Clamping only shortens the perturbation, so the result is in both sets. It is the nearest point of the
        ball, but not always the nearest point of the intersection.
        """
        delta = x_adv - x
        norm = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        radius = per_image(self.epsilon, x)
        # Points inside keep their bits, and scaled ones end a rounding error inside: projecting twice changes nothing
        scaled = x + delta * (radius * _INSIDE / norm.clamp_min(_TINY))
        return torch.where(norm > radius + _ROUNDING, scaled, x_adv).clamp(0, 1)

    def distance(self, x_adv: Images, x: Images) -> PerExample:
        """(B,) Euclidean distance."""
        return (x_adv - x).flatten(1).norm(dim=1)


class L1(Settings):
    """All images whose absolute pixel differences sum to at most ``epsilon``."""

    kind: Literal["l1"] = "l1"
    epsilon: Real = 12.0
    sparsity: Annotated[Real, Field(gt=0, le=1)] = 0.01
    """Share of the coordinates that one step moves (Tramer and Boneh, 2019, arXiv:1904.13000, use 0.01)."""

    _check = field_validator("epsilon")(lambda value: _not_negative(value))

    def with_epsilon(self, epsilon: float | Tensor) -> Self:
        """The same geometry with another radius, a number or (B,)."""
        return self.model_copy(update={"epsilon": epsilon})

    def random_start(self, x: Images, noise: Noise) -> Images:
        """Uniform in the ball (a Laplace direction, radius epsilon * U^(1/d)), then projected on ball and box."""
        magnitude = -torch.log1p(-noise.uniform(x))
        direction = magnitude * torch.where(noise.uniform(x) < 0.5, -1.0, 1.0).to(x)
        direction = direction / direction.abs().flatten(1).sum(1).clamp_min(_TINY).view(-1, 1, 1, 1)
        return self.project(x + per_image(self.epsilon, x) * _share(noise, x) * direction, x)

    def ascend(self, x_adv: Images, grad: Tensor, step_size: float | Tensor) -> Images:
        """A step of L1 length ``step_size``, shared equally by the ``movable`` coordinates of the largest gradients."""
        flat = movable(x_adv, grad).flatten(1)
        count = max(1, int(self.sparsity * flat.shape[1]))
        top = flat.abs().topk(count, dim=1).indices
        move = torch.zeros_like(flat).scatter_(1, top, flat.gather(1, top).sign())
        move = move / move.abs().sum(1, keepdim=True).clamp_min(1)
        return x_adv + per_image(step_size, x_adv) * move.view_as(x_adv)

    def project(self, x_adv: Images, x: Images) -> Images:
        """The nearest point of the ball and [0, 1] together, exactly (a water level found by sorting)."""
        delta = (x_adv - x).flatten(1)
        room = torch.where(delta > 0, 1 - x.flatten(1), x.flatten(1)).clamp_min(0)
        radius = per_image(self.epsilon, delta)
        level = _water_level(delta.abs(), room, radius)
        size = torch.minimum((delta.abs() - level).clamp_min(0), room)
        # Rounding in the sums may leave the total a hair above the radius; shrinking keeps the box, and points
        # between the two bounds stay as they are, so that projecting twice changes nothing
        size = size * (radius * _INSIDE / size.sum(1, keepdim=True).clamp_min(_TINY)).clamp_max(1)
        inside = (delta.abs().sum(1, keepdim=True) <= radius * (1 + _INSIDE) / 2) & (delta.abs() <= room).all(
            1, keepdim=True
        )
        shrunk = _round_towards(x, (size * delta.sign()).view_as(x))
        return torch.where(inside.view(-1, 1, 1, 1), x_adv, shrunk).clamp(0, 1)

    def distance(self, x_adv: Images, x: Images) -> PerExample:
        """(B,) sum of absolute pixel differences."""
        return (x_adv - x).abs().flatten(1).sum(1)


ThreatModel = Annotated[Linf | L2 | L1, Field(discriminator="kind")]
Geometry = Linf | L2 | L1


def parse_threat(text: str, setting: str = "--threat") -> Geometry:
    """``linf:8/255`` as a threat model.

    Raises:
        UserError: For an unknown kind or a radius that is not a number in range.
    """
    kind, separator, radius = text.partition(":")
    kinds: dict[str, type[Geometry]] = {"linf": Linf, "l2": L2, "l1": L1}
    if kind.lower() not in kinds or not separator:
        raise UserError(setting, text, "KIND:EPSILON with KIND linf | l2 | l1", "linf:8/255")
    try:
        return kinds[kind.lower()](epsilon=radius)  # type: ignore[arg-type]
    except UserError as error:
        raise error.at(setting) from None


def describe_threat(threat: Geometry) -> str:
    """``linf:8/255``: what ``parse_threat`` reads, as a fraction of 255 where that is shorter."""
    epsilon: Any = threat.epsilon
    whole = abs(epsilon * 255 - round(epsilon * 255)) < 1e-9 and 0 < epsilon < 1
    if threat.kind == "linf" and whole and len(f"{epsilon:.12g}") > 6:
        return f"linf:{round(epsilon * 255)}/255"
    return f"{threat.kind}:{epsilon:.12g}"


def _not_negative(value: float) -> float:
    if value < 0:
        raise UserError("", value, "a number >= 0", "8/255")
    return value


def per_image(value: float | Tensor, x: Tensor) -> float | Tensor:
    """A number as it is (as a tensor it would be copied to the device at each step), (B,) as (B, 1, ...) beside x."""
    return value.to(x).view(-1, *[1] * (x.ndim - 1)) if isinstance(value, Tensor) and value.ndim else value


def _share(noise: Noise, x: Images) -> Tensor:
    """(B, 1, 1, 1) of the radius: U^(1/d), by logarithms since the last bit of a power depends on its neighbours."""
    return (noise.uniform(x[:, :1, :1, :1]).log() / x[0].numel()).exp()


def _round_towards(x: Images, delta: Tensor) -> Images:
    """The sum, rounded towards x: rounding errors of thousands of pixels must not add up to leave an L1 ball."""
    moved = x + delta
    return torch.where((moved - x).abs() > delta.abs(), torch.nextafter(moved, x), moved)


def movable(x_adv: Images, grad: Tensor) -> Tensor:
    """The gradient without the coordinates that stand at a bound of [0, 1] and would leave it."""
    return grad.masked_fill(((x_adv >= 1 - _AT_BOUND) & (grad > 0)) | ((x_adv <= _AT_BOUND) & (grad < 0)), 0)


def at_distance(threat: Geometry, distance: float | Tensor, x: Images, noise: Noise) -> Tensor:
    """Points so far from ``x`` (a number or (B,)) in random directions; they may be outside [0, 1]."""
    away = 2 * noise.uniform(x) - 1 if isinstance(threat, Linf) else noise.normal(x)
    norm = threat.distance(away, torch.zeros_like(away)).clamp_min(_TINY)
    return x + (distance / norm).view(-1, 1, 1, 1) * away


def unit(v: Tensor) -> Tensor:
    """Each of (B, C, H, W) at length 1; zero stays zero.

    By the largest entry first: the squares of a gradient of 1e-20 are zero in float32, and it would seem to be.
    """
    v = v / v.abs().flatten(1).amax(1).clamp_min(torch.finfo(v.dtype).tiny).view(-1, 1, 1, 1)
    return v / v.flatten(1).norm(dim=1).clamp_min(_TINY).view(-1, 1, 1, 1)


def _water_level(size: Tensor, room: Tensor, total: float | Tensor) -> Tensor:
    """(B, 1) the least level >= 0 at which sum(min(max(size - level, 0), room)) is at most ``total``.

    The sum falls linearly between the points ``size`` (a coordinate becomes dry) and ``size - room`` (it stops
    being full), so sorting them and integrating the slope from the top finds the level exactly.
    """
    points = torch.cat([size, size - room], 1).clamp_min(0)
    slopes = torch.cat([torch.ones_like(size), -torch.ones_like(size)], 1)
    points, order = points.sort(1, descending=True)
    slopes = slopes.gather(1, order).cumsum(1)
    below = torch.cat([points[:, 1:], torch.zeros_like(points[:, :1])], 1)
    filled = (slopes * (points - below)).cumsum(1)
    # The first segment at whose lower end the sum exceeds the total holds the level.
    segment = (filled > total).to(torch.int8).argmax(1, keepdim=True)
    excess = filled.gather(1, segment) - total
    level = below.gather(1, segment) + excess / slopes.gather(1, segment).clamp_min(1)
    return torch.where(filled[:, -1:] <= total, torch.zeros_like(level), level)
