"""One run of FAB: from a start, step after step to the nearest linearised boundary, drawn towards the clean image."""

from __future__ import annotations

from ..libraries import Tensor, nn, torch
from ..types import Images
from .closest import Closest
from .fab_projection import dual_norm, toward_plane
from .standing import Standing

_EVERY = 8
"""Steps between two looks at who is done; in the first ones, where most are, it looks more often."""
_SHORTEST = 1e-8
"""Distances that are compared are at least this: at the boundary itself both may be zero."""


class Walk:
    """The loop of Croce and Hein (2020), section 3, for the examples of ``left``.

    With ``verdicts`` a step is one forward and backward: what is farther than the limit cannot count, so it is not
    looked at but taken as misclassified and moved back by ``beta``; what is nearer is looked at by the forward that its
    gradient needs anyway, and an example found misclassified there is done and leaves the batch. Without, every point
    has a forward of its own, as in the paper.

    Args:
        model: Images to logits.
        closest: What collects the points of the whole batch.
        left: Which examples of it these are.
        target: (B,) classes towards which they walk; None: the nearest boundary of all wrong classes.
        alpha_max: The largest pull towards the clean image.
        eta: How far past the boundary to step.
        beta: Share of the distance that is left after moving back.
        verdicts: Whether only points within epsilon count, and the first one ends the search.
    """

    def __init__(
        self,
        model: nn.Module,
        closest: Closest,
        left: Standing,
        target: Tensor | None,
        *,
        alpha_max: float,
        eta: float,
        beta: float,
        verdicts: bool,
    ) -> None:
        self.model, self.closest, self.threat = model, closest, closest.threat
        self.alpha_max, self.eta, self.beta, self.verdicts = alpha_max, eta, beta, verdicts
        self.x, self.y, self.limit = left.of(closest.x, closest.y, closest.limit)
        self.target = None if target is None else target[left.rows]
        self.rows, self.real = left.rows, left.size

    def run(self, x_adv: Images, steps: int) -> None:
        """Walk from ``x_adv``, (P, C, H, W); what is found is in ``closest``."""
        for k in range(1, steps + 1):
            normal, gap = self._boundary(x_adv)
            x_adv = self._toward(x_adv, normal, gap)
            x_adv = torch.where(self._passed(x_adv).view(-1, 1, 1, 1), self.x + self.beta * (x_adv - self.x), x_adv)
            if self.verdicts and (k & (k - 1) == 0 or k % _EVERY == 0):
                done = self.closest.distance[self.rows] <= self.limit
                left = Standing(~done, self.real)
                if not left.size:
                    return
                if left.smaller:
                    x_adv = self._narrow(left, x_adv)
        if self.verdicts:
            self._passed_by_logits(x_adv)

    def _narrow(self, left: Standing, x_adv: Images) -> Images:
        x_adv, self.x, self.y, self.limit, self.rows = left.of(x_adv, self.x, self.y, self.limit, self.rows)
        self.target = None if self.target is None else self.target[left.rows]
        self.real = left.size
        return x_adv

    def _passed(self, x_adv: Images) -> Tensor:
        """(P,) which points are past the boundary, or are taken to be."""
        if self.verdicts:
            return self.threat.distance(x_adv, self.x) > self.limit
        return self._passed_by_logits(x_adv)

    def _passed_by_logits(self, x_adv: Images) -> Tensor:
        with torch.no_grad():
            return self.closest.offer(x_adv, self.model(x_adv), self.rows)

    def _boundary(self, x_adv: Images) -> tuple[Tensor, Tensor]:
        """The normal (P, D) of the nearest linearised boundary, and what its class lacks to the label's logit (P,)."""
        x_adv = x_adv.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.model(x_adv)
            true = logits.gather(1, self.y[:, None]).squeeze(1)
            gaps = [logits.gather(1, j[:, None]).squeeze(1) - true for j in self._wrong_classes(logits.shape[1])]
            sums = [one.sum() for one in gaps]
        self.closest.offer(x_adv.detach(), logits.detach(), self.rows)
        nearest, normal, gap = None, torch.zeros_like(x_adv).flatten(1), torch.zeros_like(true.detach())
        for i, one in enumerate(gaps):
            (grad,) = torch.autograd.grad(sums[i], x_adv, retain_graph=i + 1 < len(gaps))
            grad, one = grad.flatten(1), one.detach()
            distance = one.abs() / dual_norm(self.threat, grad).clamp_min(1e-12)
            closer = distance < (torch.inf if nearest is None else nearest)
            nearest = distance if nearest is None else torch.where(closer, distance, nearest)
            normal, gap = torch.where(closer[:, None], grad, normal), torch.where(closer, one, gap)
        return normal, gap

    def _wrong_classes(self, count: int) -> list[Tensor]:
        """(P,) each: the target alone, or every class but the label."""
        if self.target is not None:
            return [self.target]
        return [torch.where(self.y <= j, j + 1, j) for j in range(count - 1)]

    def _toward(self, x_adv: Images, normal: Tensor, gap: Tensor) -> Images:
        """(1 - alpha) (x_adv + eta d) + alpha (x + eta d_clean), d and d_clean the ways to the plane."""
        here, clean = x_adv.flatten(1), self.x.flatten(1)
        # The plane is gap + normal . (z - x_adv) = 0; seen from x, not as normal . z = b, whose terms cancel
        from_clean = (normal * (here - clean)).sum(1) - gap
        way, way_clean = toward_plane(
            self.threat, torch.cat([here, clean]), normal.repeat(2, 1), torch.cat([-gap, from_clean])
        ).chunk(2)
        length, length_clean = (self._norm(d).clamp_min(_SHORTEST) for d in (way, way_clean))
        alpha = (length / (length + length_clean)).clamp_max(self.alpha_max)[:, None]
        moved = (1 - alpha) * (here + self.eta * way) + alpha * (clean + self.eta * way_clean)
        return moved.clamp(0, 1).view_as(x_adv)

    def _norm(self, delta: Tensor) -> Tensor:
        return self.threat.distance(delta, torch.zeros_like(delta))
