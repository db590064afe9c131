"""The worst point seen of each example."""

from __future__ import annotations

from ..libraries import Tensor, torch
from ..losses import hard
from ..types import Images, Labels, Logits, PerExample


class Worst:
    """The point of highest loss that was offered, for each example by itself.

    Args:
        x: (B, C, H, W) the clean images: what stands if nothing is offered.
        y: (B,) or (B, K).
        fooled_first: Whether a misclassified point beats every other, whatever its loss.
        final: Whether the first misclassified point is kept for good, so that the search may stop there.
    """

    def __init__(self, x: Images, y: Labels, *, fooled_first: bool = True, final: bool = False) -> None:
        self.x_adv = x.clone()
        self.fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        """(B,) whether the point that is held is misclassified."""
        self.final = final
        self._y, self._fooled_first = hard(y), fooled_first
        self._loss = torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)

    def offer(self, x_adv: Images, values: PerExample, logits: Logits, rows: Tensor | None = None) -> None:
        """Take each example's point if it is worse than what is held. Losses that are NaN never are.

        Args:
            x_adv: (B, C, H, W); with ``rows``: (P, C, H, W).
            values: Their losses.
            logits: Of the points.
            rows: (P,) which examples they belong to, where not all are there; copies must be equal.
        """
        held = self.fooled if rows is None else self.fooled[rows]
        better = values > (self._loss if rows is None else self._loss[rows])
        fooled = logits.argmax(1) != (self._y if rows is None else self._y[rows])
        if self._fooled_first:
            better = (fooled & ~held) | ((fooled == held) & better)
        if self.final:
            better = better & ~held
        self.x_adv = _taken(better.view(-1, 1, 1, 1), x_adv.detach(), self.x_adv, rows)
        self._loss = _taken(better, values.to(self._loss), self._loss, rows)
        self.fooled = _taken(better, fooled, self.fooled, rows)


def _taken(better: Tensor, new: Tensor, held: Tensor, rows: Tensor | None) -> Tensor:
    if rows is None:
        return torch.where(better, new, held)
    held[rows] = torch.where(better, new, held[rows])
    return held
