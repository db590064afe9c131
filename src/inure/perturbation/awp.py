"""Adversarial weight perturbation (Wu et al., 2020, arXiv:2004.05884)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

from pydantic import Field

from ..libraries import nn, torch
from ..models.modes import attack_mode
from ..schedules import Share
from ..settings.config import Real, Settings


class AWP(Settings):
    """Take the gradient at w + v, v = gamma * |w| * g / |g| for every weight matrix, g the gradient at w.

    Note:
        The official code finds g on a copy of the net with an optimizer of its own. As its step is normalised the
        result is this v, whatever that optimizer's rate, so no copy is made. It also restores the weights after the
        optimizer's step; here they are restored before it, which differs only in that weight decay acts on w.
    """

    kind: Literal["awp"] = "awp"
    gamma: Annotated[Real, Field(ge=0)] = 5e-3
    """0.01 for PGD-AT and 0.005 for TRADES in the paper's code."""
    warmup: Share = 0.0
    """Fraction of training before the perturbation starts."""

    @contextmanager
    def active(self, model: nn.Module, backward: Callable[[], object]) -> Iterator[None]:
        """Inside, every weight matrix stands ``gamma * |w|`` uphill; outside, exactly where it was.

        Args:
            model: The net as ``train_step`` has it, wrapped or not.
            backward: Fills ``p.grad``. Gradients come from there, not from ``torch.autograd.grad``, so DDP and
                FSDP reduce them as usual. BatchNorm statistics are not touched by this extra pass.
        """
        from ..models.adapters.stacks import adapter_names

        with attack_mode(model, "train_frozen_stats"):
            backward()
        stacked = adapter_names(model)
        weights = [
            p
            for name, p in model.named_parameters()
            if p.grad is not None and "weight" in name and p.ndim - (name in stacked) > 1
        ]
        before = [w.detach().clone() for w in weights]
        with torch.no_grad():
            for w in weights:
                assert w.grad is not None
                w.add_(w.grad * (self.gamma * w.norm() / (w.grad.norm() + 1e-12)))
        model.zero_grad(set_to_none=True)
        try:
            yield
        finally:
            with torch.no_grad():
                for w, value in zip(weights, before, strict=True):
                    w.copy_(value)
