"""The gradient of an attack's loss with respect to the images, and nothing else."""

import torch
from torch import Tensor, nn

from ..types import Criterion, Images, Labels, Logits, PerExample


def input_gradient(model: nn.Module, x_adv: Images, y: Labels, loss: Criterion) -> tuple[Tensor, PerExample, Logits]:
    """One forward and one backward to the images; parameter gradients are not computed.

    Returns:
        The gradient (B, C, H, W), the loss (B,) and the logits (B, K) at ``x_adv``, all detached.
    """
    x_adv = x_adv.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x_adv)
        values = loss(logits, y)
        (grad,) = torch.autograd.grad(values.sum(), x_adv)
    return grad, values.detach(), logits.detach()
