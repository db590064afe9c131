"""Random crops, flips and operations per example, and mixup or CutMix per batch.

Everything draws from torch's default generators (those of the device for crops and flips, the CPU's for RandAugment
and mixing), so ``torch.manual_seed`` before a step fixes it.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ..libraries import F, Tensor, torch
from ..settings.config import Real, Settings, Whole
from ..settings.errors import UserError
from ..types import Images, Labels
from .rand_augment import RandAugment
from .resized_crop import resized_crop

_Share = Annotated[Real, Field(gt=0, le=1)]
_SHARES = "[low, high], shares of the area in (0, 1] with low <= high"


class Augment(Settings):
    """Crop, flip, change, mix: ``x' = lam x + (1 - lam) x_partner`` (mixup) or a box of the partner pasted in (CutMix).

    mixup: Zhang et al., 2018, arXiv:1710.09412. CutMix: Yun et al., 2019, arXiv:1905.04899.
    """

    crop_padding: Annotated[Whole, Field(ge=0)] = 0
    """Pixels added on each side before cropping back to the original size at a random place."""
    crop_mode: Literal["zeros", "reflect"] = "zeros"
    """What the added pixels hold."""
    resized_crop: tuple[_Share, _Share] | None = None
    """Least and largest share of the area that a random crop keeps, before it is resized to the original size."""
    flip: bool = False
    """Whether half of the images are mirrored left to right."""
    rand_augment: RandAugment | None = None
    """Random operations on each image after crop and flip."""
    mixup: Annotated[Real, Field(ge=0)] = 0
    """Alpha of the Beta(alpha, alpha) that mixup draws its share from; 0 is off."""
    cutmix: Annotated[Real, Field(ge=0)] = 0
    """Alpha of the Beta(alpha, alpha) that CutMix draws its share from; 0 is off."""
    mix_probability: Annotated[Real, Field(ge=0, le=1)] = 1
    """Share of the batches that are mixed at all."""
    switch_probability: Annotated[Real, Field(ge=0, le=1)] = 0.5
    """Share of the mixed batches that get CutMix, where both are on."""

    @field_validator("resized_crop", mode="before")
    @classmethod
    def _two_shares(cls, value: Any) -> Any:
        if value is not None and not (isinstance(value, list | tuple) and len(value) == 2):
            raise UserError("", value, _SHARES)
        return value

    @model_validator(mode="after")
    def _one_crop(self) -> Augment:
        if self.resized_crop is not None:
            low, high = self.resized_crop
            if low > high:
                raise UserError("resized_crop", [low, high], _SHARES)
            if self.crop_padding > 0:
                allowed = "null with crop_padding: one kind of crop"
                raise UserError("resized_crop", [low, high], allowed, "augment.crop_padding=0")
        return self

    @property
    def mixes(self) -> bool:
        """Whether labels come out soft."""
        return self.mixup > 0 or self.cutmix > 0

    def geometric(self, x: Tensor) -> Tensor:
        """Crops, flips and changes each image by draws of its own.

        Args:
            x: (B, C, H, W), any type (RandAugment: uint8), on any device; nothing waits for it.

        Raises:
            UserError: If the images are too small to reflect ``crop_padding`` pixels, or not for RandAugment.
        """
        if self.resized_crop is not None:
            x = resized_crop(x, *self.resized_crop)
        if self.crop_padding > 0:
            x = self._crop(x)
        if self.flip:
            mirrored = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
            x = torch.where(mirrored, x.flip(-1), x)
        return x if self.rand_augment is None else self.rand_augment(x)

    def _crop(self, x: Tensor) -> Tensor:
        padding, (height, width) = self.crop_padding, x.shape[2:]
        if self.crop_mode == "zeros":
            padded = F.pad(x, [padding] * 4)
        else:
            if padding >= min(height, width):
                allowed = f"less than {min(height, width)}, the images' size, to reflect"
                raise UserError("augment.crop_padding", padding, allowed, "augment.crop_mode=zeros")
            padded = x[:, :, _reflected(height, padding, x.device)][..., _reflected(width, padding, x.device)]
        places = 2 * padding + 1
        top, left = torch.randint(places, (2, len(x)), device=x.device)
        # Views of every crop, of which each image takes one: (B, C, places, places, H, W).
        crops = padded.unfold(2, height, 1).unfold(3, width, 1)
        return crops[torch.arange(len(x), device=x.device), :, top, left]

    def mix(self, x: Images, y: Labels, num_classes: int) -> tuple[Images, Labels]:
        """Mixes every image with that of the mirrored place in the batch, all by the same share.

        The middle image of an odd batch is its own partner. When the draw says not to mix, the labels are
        still (B, K), so that shapes stay the same from step to step.

        Args:
            x: (B, C, H, W) floats in [0, 1]; the result stays there.
            y: (B,) classes or (B, K) probabilities.
            num_classes: K.

        Returns:
            Images, and (B, K) probabilities.
        """
        y = soft_labels(y, num_classes).to(x.dtype)
        mixing, cutting, u, v = torch.rand(4, dtype=torch.float64).tolist()
        if not self.mixes or mixing >= self.mix_probability:
            return x, y
        if self.cutmix > 0 and (self.mixup == 0 or cutting < self.switch_probability):
            x, kept = _paste_box(x, _beta(self.cutmix), u, v)
        else:
            kept = _beta(self.mixup)
            # lerp, unlike two products and a sum, cannot round past 1.
            x = torch.lerp(x, x.flip(0), 1 - kept)
        return x, torch.lerp(y, y.flip(0), 1 - kept)


def soft_labels(y: Labels, num_classes: int) -> Labels:
    """(B, K) float probabilities: classes as one-hot rows, probabilities as they are."""
    if y.ndim == 2:
        return y
    # one_hot would read the labels back from the device to check them.
    return (y[:, None] == torch.arange(num_classes, device=y.device)).float()


def _reflected(size: int, padding: int, device: torch.device) -> Tensor:
    """(size + 2 padding,) positions in [0, size), mirrored at the first and the last one."""
    position = torch.arange(-padding, size + padding, device=device).abs()
    return size - 1 - (size - 1 - position).abs()


def _beta(alpha: float) -> float:
    """A draw of Beta(alpha, alpha) from torch's CPU generator."""
    concentration = torch.tensor(alpha, dtype=torch.float64)
    return float(torch.distributions.Beta(concentration, concentration).sample())


def _paste_box(x: Tensor, kept: float, u: float, v: float) -> tuple[Tensor, float]:
    """A box of the partner, ``1 - kept`` of the area, around (u, v); with the share kept after clipping it."""
    height, width = x.shape[2:]
    share = math.sqrt(1 - kept)
    half_height, half_width = int(height * share) / 2, int(width * share) / 2
    row, column = int(u * height), int(v * width)
    top, bottom = max(0, math.ceil(row - half_height)), min(height, math.ceil(row + half_height))
    left, right = max(0, math.ceil(column - half_width)), min(width, math.ceil(column + half_width))
    mixed = x.clone()
    mixed[:, :, top:bottom, left:right] = x.flip(0)[:, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
