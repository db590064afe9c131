"""The update of DEAT, diffusion enhanced adversarial training (Sun et al., 2023, arXiv:2306.02618)."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..settings.errors import UserError
from .quick import Quick

_LAST, _BEFORE = "h_last", "h_before"


class DEAT(Quick):
    """Positive-negative momentum (Xie et al., 2021, arXiv:2103.17182), which is all that DEAT adds to PGD-AT.

        h_t = k2 h_(t-2) + (1 - k2) g_t,    w <- w - lr / d * ((1 + k1) h_t - k1 h_(t-1)),
        d = sqrt((1 + k1)^2 + k1^2), or 1 with ``match_lr``

    ``h`` starts at 0 and is not corrected for it: every second gradient goes into one of two averages. With k1 = 0
    they are plain averages, with k2 = 0 as well it is SGD without momentum, bit for bit.

    What is known of it (derived, and asserted in the tests): a constant gradient g ends in steps of lr / d * g, so in
    the long run DEAT is SGD with lr / sqrt(5) at k1 = 1; the noise of one step is (1 - k2) / (1 + k2) times SGD's; on
    a quadratic it is stable for lr * curvature < 2 d / (1 + 2 k1), 1.49 at k1 = 1 where SGD has 2.

    Args:
        params: Tensors or groups of them, as for all of torch's optimizers.
        lr: At least 0; read from each group in every step, like all that follows.
        k1: Weight of the negative part, at least 0.
        k2: In [0, 1): how much of each average is kept. The paper writes 0.8, its code has 0.9^2 = 0.81.
        weight_decay: At least 0.
        decoupled: Decay by w <- w (1 - lr * weight_decay) before the step, as the official code; else
            g <- g + weight_decay * w, as torch's SGD.
        match_lr: Leave the division by d out, so that the long-run step is SGD's at the same lr.
        foreach: Update all tensors at once; None is yes, but for subclasses of tensors (FSDP's).

    Only ``p.grad`` is read, after whatever reduced, unscaled, accumulated or clipped it: DDP, GradScaler, AWP, EMA
    and SWA need nothing special. A step that GradScaler skips moves neither weights nor averages, and a parameter
    without a gradient keeps its two. ``state_dict`` keeps which average is the newer one.

    Raises:
        UserError: For settings out of range; in ``step`` for a sparse gradient, before anything is changed.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        k1: float = 1.0,
        k2: float = 0.81,
        weight_decay: float = 0.0,
        decoupled: bool = True,
        match_lr: bool = False,
        *,
        foreach: bool | None = None,
    ) -> None:
        for name, value, allowed, fits in (
            ("lr", lr, "at least 0", lr >= 0),
            ("k1", k1, "at least 0", k1 >= 0),
            ("k2", k2, "0 <= k2 < 1", 0 <= k2 < 1),
            ("weight_decay", weight_decay, "at least 0", weight_decay >= 0),
        ):
            if not fits:
                raise UserError(name, value, allowed)
        settings = {"lr": lr, "k1": k1, "k2": k2, "weight_decay": weight_decay, "decoupled": decoupled}
        super().__init__(params, settings | {"match_lr": match_lr, "foreach": foreach})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update of every parameter that has a gradient; returns what ``closure`` returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        if any(p.grad.layout != torch.strided for params in moving for p in params):
            raise UserError("grad", "a sparse gradient", "dense ones", "nn.Embedding(..., sparse=False)")
        for group, params in zip(self.param_groups, moving, strict=True):
            if params:
                self._update(group, params)
        return loss

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        states = [self._state_of(p) for p in params]
        last, before = ([state[name] for state in states] for name in (_LAST, _BEFORE))
        grads: list[Any] = [p.grad for p in params]
        together = group["foreach"]
        if together is None:
            together = all(type(p) in (Tensor, torch.nn.Parameter) for p in params)
        lr, k1 = float(group["lr"]), group["k1"]
        rate = lr if group["match_lr"] else lr / step_divisor(k1)
        decay = group["weight_decay"]
        shrink, coupled = (1 - lr * decay, 0.0) if group["decoupled"] else (1.0, decay)
        rule = _update_together if together else _update_one_by_one
        rule(params, grads, last, before, k2=group["k2"], ahead=-rate * (1 + k1), back=rate * k1,
             shrink=shrink, coupled=coupled)  # fmt: skip
        for state in states:  # what was the older average holds h_t by now
            state[_LAST], state[_BEFORE] = state[_BEFORE], state[_LAST]

    def _state_of(self, p: Tensor) -> dict[str, Tensor]:
        state = self.state[p]
        if not state:
            state[_LAST] = torch.zeros_like(p, memory_format=torch.preserve_format)
            state[_BEFORE] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return state


def step_divisor(k1: float) -> float:
    """sqrt((1 + k1)^2 + k1^2): 2.236 at k1 = 1, exactly 1 at k1 = 0."""
    return math.hypot(1 + k1, k1)


def _update_together(
    params: list[Tensor], grads: list[Tensor], last: list[Tensor], before: list[Tensor],
    *, k2: float, ahead: float, back: float, shrink: float, coupled: float,
) -> None:  # fmt: skip
    if coupled:
        grads = [*torch._foreach_add(grads, params, alpha=coupled)]
    if shrink != 1:
        torch._foreach_mul_(params, shrink)
    torch._foreach_mul_(before, k2)
    torch._foreach_add_(before, grads, alpha=1 - k2)
    torch._foreach_add_(params, before, alpha=ahead)
    if back:
        torch._foreach_add_(params, last, alpha=back)


def _update_one_by_one(
    params: list[Tensor], grads: list[Tensor], last: list[Tensor], before: list[Tensor],
    *, k2: float, ahead: float, back: float, shrink: float, coupled: float,
) -> None:  # fmt: skip
    for p, grad, newer, older in zip(params, grads, last, before, strict=True):
        if coupled:
            grad = grad.add(p, alpha=coupled)
        if shrink != 1:
            p.mul_(shrink)
        older.mul_(k2).add_(grad, alpha=1 - k2)
        p.add_(older, alpha=ahead)
        if back:
            p.add_(newer, alpha=back)
