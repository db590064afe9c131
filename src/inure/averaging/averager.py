"""The running average of a net's weights, on top of torch.optim.swa_utils."""

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class Averager:
    """Weights that are evaluated instead of the trained ones.

    Args:
        model: The net to average, unwrapped.
        average: (averaged, current, updates so far) to None, in place on lists of tensors.
        start: Fraction of training before which the average follows the net exactly.
    """

    def __init__(self, model: nn.Module, average: Any, start: float) -> None:
        self._average, self._start = average, start
        self.updates = 0
        # use_buffers: BatchNorm statistics are averaged along with the weights that produced them
        self._averaged = AveragedModel(model, multi_avg_fn=self._combine, use_buffers=True)
        self._averaged.requires_grad_(False)

    @property
    def module(self) -> nn.Module:
        """The net with the averaged weights, in eval mode."""
        return self._averaged.module.eval()

    def update(self, model: nn.Module, progress: float) -> None:
        """Take in the weights after one step."""
        started = progress >= self._start
        self.updates = self.updates if started else 0
        self._averaged.update_parameters(model)
        self.updates += started

    def _combine(self, averaged: Any, current: Any, _: Any) -> None:
        if self.updates == 0 or not averaged[0].is_floating_point():
            torch._foreach_copy_(averaged, current)
        else:
            self._average(averaged, current, self.updates)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {"updates": self.updates, "averaged": self._averaged.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``'s value."""
        self.updates = state["updates"]
        self._averaged.load_state_dict(state["averaged"])
