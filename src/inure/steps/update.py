"""The end of every step: from gradients to new weights."""

from __future__ import annotations

from ..libraries import Tensor, nn, torch


def clip_and_update(model: nn.Module, optimizer: torch.optim.Optimizer, clip_norm: float | None) -> Tensor:
    """Clip the gradients to the global L2 norm ``clip_norm`` (None: not at all) and make the optimizer's step.

    Returns:
        The norm before clipping, 0-d, on the device.
    """
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    grad_norm = torch.nn.utils.get_total_norm(grads)
    if clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), clip_norm, grad_norm)
    optimizer.step()
    return grad_norm.detach()
