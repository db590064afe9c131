"""In what precision a device can count."""

from __future__ import annotations

from ..libraries import torch

_WITHOUT_FLOAT64 = {"mps"}


def finest(device: torch.device) -> torch.dtype:
    """float64, or float32 where the device has no other: there counts are exact up to 2^24."""
    return torch.float32 if device.type in _WITHOUT_FLOAT64 else torch.float64
