"""One run of APGD: from a start, so many steps, each example with its own best point and step size."""

from __future__ import annotations

from ..libraries import Tensor, nn, torch
from ..threat import Geometry
from ..types import Crafting, Criterion, Images, Labels
from .apgd_steps import Halving, Sparse
from .gradient import input_gradient, is_blind
from .standing import Standing
from .worst import Worst

_PER_EXAMPLE = ("x", "y", "x_adv", "before", "grad", "values", "x_best", "grad_best", "loss_best", "_rows")


class Climb:
    """The loop; how a step is made and adapts is the rule's affair.

    With ``left`` the examples that become misclassified leave the batch: after the steps 1, 2, 4, 8, ... and at the
    checkpoints (see ``Standing``).

    Args:
        model: Images to logits.
        x: (B, C, H, W).
        y: (B,) or (B, K).
        loss: (logits, y) to (B,).
        threat: Of these examples.
        rule: ``Halving`` or ``Sparse``.
        samples: Forwards to average each gradient over.
        crafting: A trick that acts on the iterate before each gradient.
        worst: What collects the points, or None: then only ``x_best`` counts.
        left: Which examples of ``worst`` these are; None: all, to the end.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        *,
        loss: Criterion,
        threat: Geometry,
        rule: Halving | Sparse,
        samples: int = 1,
        crafting: Crafting | None = None,
        worst: Worst | None = None,
        left: Standing | None = None,
    ) -> None:
        self.model, self.x, self.y, self.loss, self.threat, self.rule = model, x, y, loss, threat, rule
        self._samples, self._crafting, self._worst = samples, crafting, worst
        self._rows, self._real = (None, len(x)) if left is None else (left.rows, left.size)
        self._leave = worst is not None and left is not None

    def run(self, x_adv: Images, steps: int) -> Images:
        """Climb; each example's point of highest loss, the start included.

        Of examples that left there is no such point, and where ``worst`` collects, the last point is only seen there.
        """
        self.x_adv = self.before = self.x_best = self._crafted(0, x_adv)
        self._look(backward=True)
        self.x_best, self.grad_best, self.loss_best = self.x_adv, self.grad, self.values
        self.rule.begin(self)
        for k in range(1, steps + 1):
            self.before, self.x_adv = self.x_adv, self.rule.move(self, k)
            if k < steps:
                self.x_adv = self._crafted(k, self.x_adv)
            previous = self.values
            self._look(backward=k < steps)
            if k == steps and self._worst is not None:
                break
            rose = self.values > previous
            self._remember()
            self.rule.watch(rose)
            at_checkpoint = k == self.rule.checkpoint
            if at_checkpoint:
                back = self.rule.adapt(self)
                self.x_adv, self.grad = _where(back, self.x_best, self.x_adv), _where(back, self.grad_best, self.grad)
            if self._leave and (at_checkpoint or k & (k - 1) == 0) and not self._narrow():
                break
        return self.x_best

    def _crafted(self, k: int, x_adv: Images) -> Images:
        return x_adv if self._crafting is None else self._crafting.step(k, x_adv, self.x)

    def _look(self, *, backward: bool) -> None:
        self.grad, self.values, logits = input_gradient(
            self.model,
            self.x_adv,
            self.y,
            self.loss,
            self._samples,
            backward=backward and not is_blind(self._crafting),
        )
        if self._worst is not None:
            self._worst.offer(self.x_adv, self.values, logits, self._rows)

    def _remember(self) -> None:
        better = self.values > self.loss_best
        self.x_best = _where(better, self.x_adv, self.x_best)
        self.grad_best = _where(better, self.grad, self.grad_best)
        self.loss_best = torch.where(better, self.values, self.loss_best)

    def _narrow(self) -> bool:
        """Go on with who stands; False if nobody does."""
        assert self._worst is not None
        left = Standing(~self._worst.fooled[self._rows], self._real)
        if left.size and left.smaller:
            for name in _PER_EXAMPLE:
                setattr(self, name, getattr(self, name)[left.rows])
            self.rule.narrow(left)
            self.threat, self.loss, self._real = left.threat(self.threat), left.loss(self.loss), left.size
        return left.size > 0


def _where(mask: Tensor, yes: Images, no: Images) -> Images:
    return torch.where(mask.view(-1, 1, 1, 1), yes, no)
