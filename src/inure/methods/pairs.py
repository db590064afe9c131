"""Clean and adversarial logits of one batch from a single forward."""

from __future__ import annotations

from ..libraries import nn, torch
from ..types import Images, Logits


def paired_logits(model: nn.Module, x: Images, x_adv: Images) -> tuple[Logits, Logits]:
    """Logits of the clean and of the adversarial images, from one forward of 2B images.

    One forward a step is what DDP with BatchNorm needs. In train mode BatchNorm therefore sees both halves in one
    batch; the official TRADES and MART code runs two forwards, each with its own statistics.
    """
    clean, adversarial = model(torch.cat([x, x_adv])).chunk(2)
    return clean, adversarial
