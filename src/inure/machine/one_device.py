"""What Fabric is for one process on one device in float32, without what Fabric loads: torch.compile's machinery."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


class OneDevice:
    """The part of Fabric that runs use. Several devices and lower precisions are Fabric's: see ``engine.start``.

    Args:
        device: Where nets are put.
    """

    world_size, global_rank, is_global_zero = 1, 0, True

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def setup(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The net on the device, wrapped as Fabric wraps it, and its optimizer."""
        return Placed(module.to(self.device)), optimizer

    def autocast(self) -> AbstractContextManager[None]:
        """Float32 needs none."""
        return nullcontext()

    def no_backward_sync(self, module: nn.Module, enabled: bool = True) -> AbstractContextManager[None]:
        """There is nobody to exchange gradients with."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Fills ``.grad``."""
        loss.backward()

    def all_reduce(self, value: Tensor, reduce_op: str = "mean") -> Tensor:
        """The sum or mean over one process."""
        return value

    def broadcast(self, value: Any) -> Any:
        """What the first process has."""
        return value

    def barrier(self) -> None:
        """Nobody to wait for."""


class Placed(nn.Module):
    """A net that knows the attributes of the one it holds, as Fabric's wrapper does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._original_module = module

    @property
    def module(self) -> nn.Module:
        """The net itself."""
        return self._original_module

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """As the net."""
        return self._original_module(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("_original_module"), name)
