"""Torch's optimizers without the guards against being compiled, which load torch.compile's machinery.

Making a ``torch.optim.SGD`` (torch 2.15) imports ``torch._dynamo``, which takes as long as torch itself. Nothing here
compiles an optimizer, so its methods are taken as they are under their decorators.
"""

from collections.abc import Callable
from inspect import unwrap
from typing import Any

import torch


class Quick(torch.optim.Optimizer):
    """To stand before one of torch's optimizers, or instead of ``torch.optim.Optimizer``."""

    add_param_group: Any = unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad: Any = unwrap(torch.optim.Optimizer.zero_grad)
    state_dict: Any = unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict: Any = unwrap(torch.optim.Optimizer.load_state_dict)


class SGD(Quick, torch.optim.SGD):
    """``torch.optim.SGD``, bit for bit."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update."""
        return unwrap(torch.optim.SGD.step)(self, closure)


class AdamW(Quick, torch.optim.AdamW):
    """``torch.optim.AdamW``, bit for bit."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update."""
        return unwrap(torch.optim.AdamW.step)(self, closure)
