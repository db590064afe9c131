"""BatchNorm statistics of averaged weights: no step of training ever ran with these weights."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..balance import Balance
from ..types import Batch


def estimate_statistics(net: nn.Module, batches: Iterable[Batch], method: Any, balance: Balance) -> None:
    """Set the running statistics of ``net`` to their mean over the forwards of ``method`` on ``batches``.

    The images are those that a training step would see, attacked and, where the method takes both, clean. Clean
    images alone would give an adversarially trained net statistics that it never saw.

    Args:
        net: Left in eval mode. What is attacked is a copy with the old statistics.
        batches: Clean images and labels.
        method: Crafts at full strength, then runs its forward.
        balance: The criteria of attack and update.
    """
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    attacked, attack = copy.deepcopy(net), getattr(method, "attack", None)
    momenta = [norm.momentum for norm in norms]
    try:
        net.train()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's way to say: the plain mean over batches
        for batch in batches:
            x_adv = method.craft(attacked, batch, attack, balance.attack)
            with torch.no_grad():
                method.losses(net, batch, x_adv, balance.train)
    finally:
        net.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
