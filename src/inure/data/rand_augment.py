"""RandAugment: a few random operations an image, all of one strength (Cubuk et al., 2020, arXiv:1909.13719)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..libraries import Tensor, torch
from ..settings.config import Real, Settings, Whole
from ..settings.errors import UserError
from .image_operations import OPERATIONS

_STRONGEST = 10


class RandAugment(Settings):
    """``layers`` times: one of 15 operations, drawn per image, applied with ``probability``.

    The operations and how strong they are at a magnitude are those of timm's ``rand-m9-mstd0.5-inc1``: all of them
    grow with the magnitude, which is drawn per image and layer from a normal distribution and clamped to [0, 10].

    Note:
        timm resamples rotations, shears and translations bilinearly or bicubically at random; here it is always
        bilinear, rounded to the nearest grey level. What moves in from outside is grey, 128, timm's default; MAE
        fills with the data's mean. Pillow's ``autocontrast`` rounds in floating point, here it is whole numbers.
    """

    layers: Annotated[Whole, Field(ge=1)] = 2
    """Operations drawn for every image."""
    magnitude: Annotated[Real, Field(ge=0, le=_STRONGEST)] = 9
    """Mean strength; what it means in degrees or shares is said by each operation."""
    magnitude_std: Annotated[Real, Field(ge=0)] = 0.5
    """Standard deviation of the strength."""
    probability: Annotated[Real, Field(ge=0, le=1)] = 0.5
    """Chance that an operation that was drawn is applied."""

    def __call__(self, x: Tensor) -> Tensor:
        """Images of the same shape, each changed by draws of its own from torch's default CPU generator.

        Args:
            x: (B, C, H, W) uint8 with C of 1 or 3, on any device; nothing waits for it.

        Raises:
            UserError: If the images are of another type, or have another number of channels.
        """
        if x.dtype != torch.uint8 or x.shape[1] not in (1, 3):
            given = f"images of {x.shape[1]} channels, {x.dtype}"
            raise UserError("augment.rand_augment", given, "uint8 images of 1 or 3 channels")
        for _ in range(self.layers):
            x = self._layer(x)
        return x

    def _layer(self, x: Tensor) -> Tensor:
        drawn = torch.randint(len(OPERATIONS), (len(x),))
        applied = torch.rand(len(x)) < self.probability
        magnitudes = self.magnitude + self.magnitude_std * torch.randn(len(x), dtype=torch.float64)
        levels = magnitudes.clamp(0, _STRONGEST) / _STRONGEST
        signs = 1 - 2 * torch.randint(2, (len(x),))
        rows = [((drawn == kind) & applied).nonzero().flatten() for kind in range(len(OPERATIONS))]
        strengths = [op.strength(levels[r], signs[r]).float() for op, r in zip(OPERATIONS.values(), rows, strict=True)]
        # All draws are the host's, so that it knows how many images every operation gets: two copies, no wait
        counts = [len(r) for r in rows]
        rows = torch.cat(rows).to(x.device, non_blocking=True).split(counts)
        strengths = torch.cat(strengths).to(x.device, non_blocking=True).split(counts)
        changed = x.clone()
        for operation, r, strength in zip(OPERATIONS.values(), rows, strengths, strict=True):
            if len(r):
                changed.index_copy_(0, r, operation.apply(x.index_select(0, r), strength))
        return changed
