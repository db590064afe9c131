"""The images that an evaluation runs on, from tensors or from a data set."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import ImageSet
from ..errors import UserError
from ..types import Images


@dataclass(frozen=True)
class Examples:
    """N labelled images; rows are positions, ``index`` names the examples for good."""

    labels: Tensor
    index: Tensor
    data_hash: str
    source: "Tensor | ImageSet"

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, rows: Tensor, device: torch.device) -> Images:
        """(B, C, H, W) float32 in [0, 1] on ``device``."""
        if isinstance(self.source, Tensor):
            return self.source[rows].to(device)
        return self.source.batch(rows).to(device).float().div(255)

    @classmethod
    def of(cls, images: "Tensor | ImageSet", labels: Tensor | None, index: Tensor | None = None) -> "Examples":
        """Checked examples.

        Raises:
            UserError: If images are not float in [0, 1] and NCHW, or labels do not fit them.
        """
        if isinstance(images, ImageSet):
            return cls(images.labels, images.index, images.hash, images)
        if labels is None:
            raise UserError("labels", None, "a (N,) tensor of classes beside a tensor of images")
        if images.ndim != 4 or not images.is_floating_point():
            given = f"{images.dtype} {tuple(images.shape)}"
            raise UserError("images", given, "a float tensor (N, C, H, W) in [0, 1]", "images.float() / 255")
        low, high = (images.min().item(), images.max().item()) if len(images) else (0.0, 1.0)
        if not (low >= 0 and high <= 1):
            raise UserError("images", f"values in [{low:g}, {high:g}]", "[0, 1]", "normalisation inside the model")
        if len(labels) != len(images) or labels.ndim != 1 or labels.is_floating_point():
            raise UserError("labels", f"{labels.dtype} {tuple(labels.shape)}", f"({len(images)},) integer classes")
        rows = torch.arange(len(images)) if index is None else index.cpu()
        images = images.float()
        digest = hashlib.sha256(images.cpu().contiguous().numpy().tobytes())
        digest.update(labels.cpu().long().contiguous().numpy().tobytes())
        return cls(labels.cpu().long(), rows, digest.hexdigest(), images)
