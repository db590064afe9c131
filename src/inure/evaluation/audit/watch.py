"""An attack watched from the side of the net: what every forward and every gradient of it was."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...types import Criterion, Images, Labels, Logits, Noise


@dataclass(frozen=True)
class Steps:
    """What every forward of a watched attack gave. M examples; K iterates, the start first. On the CPU."""

    loss: Tensor
    """(K, M) what the attack climbs."""
    fooled: Tensor
    """(K, M) bool: misclassified there; a logit that is not finite counts as that."""
    zero: Tensor
    """(K', M) bool: the gradient is exactly zero; K' is the number of gradients."""
    bad: Tensor
    """(K', M) bool: the gradient is not finite."""

    @classmethod
    def joined(cls, parts: "list[Steps]") -> "Steps":
        """Of the batches, in order."""
        return cls(*(torch.cat([getattr(p, name) for p in parts], 1) for name in ("loss", "fooled", "zero", "bad")))


class Watched:
    """An attack that is itself, and remembers what it saw."""

    def __init__(self, attack: Any) -> None:
        self._attack = attack

    def __call__(
        self, model: nn.Module, x: Images, y: Labels, *, loss: Criterion, noise: Noise | None = None
    ) -> Images:
        """The attack."""
        self._seen = Watch(model, y, loss)
        return self._attack(self._seen, x, y, loss=loss, noise=noise)

    def steps(self, size: int) -> Steps:
        """Of the first ``size`` examples."""
        return self._seen.steps(size)


class Watch(nn.Module):
    """A net whose forwards on one batch are recorded: losses, verdicts, and what the gradients were.

    A net whose output autograd cannot trace to the image gets the gradient zero, which is what an attack learns there.
    """

    def __init__(self, model: nn.Module, y: Labels, loss: Criterion) -> None:
        super().__init__()
        self.model, self._y, self._loss = model, y, loss
        self._losses: list[Tensor] = []
        self._fooled: list[Tensor] = []
        self._zero: list[Tensor] = []
        self._bad: list[Tensor] = []

    def forward(self, x: Images) -> Logits:
        """The logits of the net."""
        if x.requires_grad:
            # Before the hook of Metered, which repairs what is not finite
            x.register_hook(self._look)
        logits = self.model(x)
        seen = logits.detach()
        self._losses.append(self._loss(seen, self._y))
        self._fooled.append((seen.argmax(1) != self._y) | ~seen.isfinite().all(1))
        if x.requires_grad and not logits.requires_grad:
            return logits + 0 * x.flatten(1).sum(1, keepdim=True)
        return logits

    def steps(self, size: int) -> Steps:
        """What was recorded of the first ``size`` examples."""
        lists = (self._losses, self._fooled, self._zero, self._bad)
        return Steps(*(torch.stack(values)[:, :size].cpu() for values in lists))

    def _look(self, grad: Tensor) -> None:
        flat = grad.flatten(1)
        self._zero.append((flat == 0).all(1))
        self._bad.append(~flat.isfinite().all(1))
