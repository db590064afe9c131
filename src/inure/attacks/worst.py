"""The worst point seen of each example."""

import torch

from ..losses import hard
from ..types import Images, Labels, Logits, PerExample


class Worst:
    """The point of highest loss that was offered, for each example by itself.

    Args:
        x: (B, C, H, W) the clean images: what stands if nothing is offered.
        y: (B,) or (B, K).
        fooled_first: Whether a misclassified point beats every other, whatever its loss.
    """

    def __init__(self, x: Images, y: Labels, *, fooled_first: bool = True) -> None:
        self.x_adv = x.clone()
        self._y, self._fooled_first = hard(y), fooled_first
        self._fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self._loss = torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)

    def offer(self, x_adv: Images, values: PerExample, logits: Logits) -> None:
        """Take each example's point if it is worse than what is held. Losses that are NaN never are."""
        better = values > self._loss
        fooled = logits.argmax(1) != self._y
        if self._fooled_first:
            better = (fooled & ~self._fooled) | ((fooled == self._fooled) & better)
        self.x_adv = torch.where(better.view(-1, 1, 1, 1), x_adv.detach(), self.x_adv)
        self._loss = torch.where(better, values.to(self._loss), self._loss)
        self._fooled = torch.where(better, fooled, self._fooled)
