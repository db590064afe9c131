"""The closest misclassified point seen of each example: what an attack of minimum norm keeps."""

from __future__ import annotations

from ..libraries import Tensor, torch
from ..losses import margin
from ..threat import Geometry
from ..types import Images, Logits, PerExample

_INSIDE = 1 - 1e-6
"""A search may stop this much inside epsilon: there no rounding of a norm in float32 puts it outside."""


class Closest:
    """The misclassified point of least distance that was offered, for each example by itself.

    Args:
        threat: Its norm measures; its epsilon (a number or (B,)) is only for ``within_epsilon`` and ``limit``.
        x: (B, C, H, W) the clean images.
        y: (B,) classes.
        stop_at_epsilon: Whether the first point within epsilon is kept for good, so that the search may stop there and
            nobody sees when it did.
    """

    def __init__(self, threat: Geometry, x: Images, y: Tensor, *, stop_at_epsilon: bool) -> None:
        self.threat, self.x, self.y = threat, x, y
        self.x_adv = x.clone()
        """(B, C, H, W); the image itself as long as none was found."""
        self.distance = torch.full((len(x),), torch.inf, device=x.device, dtype=x.dtype)
        """(B,); infinite as long as none was found."""
        self.limit = _radii(threat, x) * _INSIDE
        """(B,) the distance up to which a point is within epsilon, whatever the rounding."""
        self.enough = self.limit if stop_at_epsilon else torch.zeros_like(self.distance)
        """(B,) at this distance, or less, the search of an example is over."""
        self.margin = torch.zeros_like(self.distance)
        """(B,) by how much the largest wrong logit exceeds the label's at the point held."""

    def offer(self, x_adv: Images, logits: Logits, rows: Tensor | None = None) -> Tensor:
        """Take each example's point if it is misclassified and closer than what is held.

        Args:
            x_adv: (B, C, H, W); with ``rows``: (P, C, H, W).
            logits: Of the points.
            rows: (P,) which examples they belong to, where not all are there; copies must be equal.

        Returns:
            (B,) or (P,) bool: which points are misclassified.
        """
        rows = torch.arange(len(self.x), device=self.x.device) if rows is None else rows
        fooled = logits.argmax(1) != self.y[rows]
        distance = self.threat.distance(x_adv, self.x[rows])
        held = self.distance[rows]
        better = fooled & (distance < held) & (held > self.enough[rows])
        self.x_adv[rows] = torch.where(better.view(-1, 1, 1, 1), x_adv, self.x_adv[rows])
        self.distance[rows] = torch.where(better, distance, held)
        self.margin[rows] = torch.where(better, self.margin_of(logits, rows).to(distance), self.margin[rows])
        return fooled

    def margin_of(self, logits: Logits, rows: Tensor | None = None) -> PerExample:
        """The margin of all examples, or of ``rows``."""
        return margin(logits, self.y if rows is None else self.y[rows], torch.inf)

    def within_epsilon(self) -> Images:
        """(B, C, H, W) the points held that are within epsilon, measured in float64; else the clean images."""
        # On the CPU: some devices have no float64
        x_adv, x = self.x_adv.cpu().double(), self.x.cpu().double()
        inside = (self.threat.distance(x_adv, x) <= _radii(self.threat, x)).to(self.x.device)
        return torch.where(inside.view(-1, 1, 1, 1), self.x_adv, self.x)


def _radii(threat: Geometry, x: Images) -> PerExample:
    return torch.as_tensor(threat.epsilon).to(x).expand(len(x))
