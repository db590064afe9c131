"""The running average of a net's weights.

As torch.optim.swa_utils.AveragedModel with ``use_buffers``, which would copy its counter to the device at every step.
"""

from __future__ import annotations

import copy
from typing import Any

from ..libraries import Tensor, nn, torch


class Averager:
    """Weights that are evaluated instead of the trained ones.

    Args:
        model: The net to average, unwrapped.
        average: (averaged, current, updates so far) to None, in place on lists of tensors.
        start: Fraction of training before which the average follows the net exactly.
    """

    def __init__(self, model: nn.Module, average: Any, start: float) -> None:
        self._average, self._start = average, start
        self._averaged = copy.deepcopy(model).requires_grad_(False)
        self.updates = 0
        """Steps that are in the average; 0 while it follows the net."""

    @property
    def module(self) -> nn.Module:
        """The net with the averaged weights, in eval mode."""
        return self._averaged.eval()

    def update(self, model: nn.Module, progress: float) -> None:
        """Take in the weights after one step; BatchNorm statistics are averaged with the weights they belong to."""
        with torch.no_grad():
            started = progress >= self._start
            self.updates = self.updates if started else 0
            averaged, current = _tensors(self._averaged), _tensors(model)
            floating = [t.is_floating_point() for t in averaged]
            ours, theirs = ([t for t, f in zip(ts, floating, strict=True) if f] for ts in (averaged, current))
            if self.updates == 0:
                torch._foreach_copy_(ours, theirs)
            else:
                self._average(ours, theirs, self.updates)
            for counter, value, is_float in zip(averaged, current, floating, strict=True):
                if not is_float:
                    counter.copy_(value)
            self.updates += started

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {"updates": self.updates, "averaged": self._averaged.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``'s value."""
        self.updates = state["updates"]
        self._averaged.load_state_dict(state["averaged"])


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
