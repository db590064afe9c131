"""The images that an evaluation runs on, from tensors or from a data set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import overload

from ..data import ImageSet
from ..libraries import Tensor, np, torch
from ..noise import CounterNoise
from ..settings.errors import UserError
from ..types import Images


@dataclass(frozen=True)
class Examples:
    """N labelled images; rows are positions, ``index`` names the examples for good."""

    labels: Tensor
    index: Tensor
    data_hash: str
    source: Tensor | ImageSet
    accepted: Tensor | None = None
    """(N, K) bool: the right classes of each image, where there may be several."""

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, rows: Tensor, device: torch.device) -> Images:
        """(B, C, H, W) float32 in [0, 1] on ``device``."""
        if isinstance(self.source, Tensor):
            return self.source[rows].to(device)
        return self.source.batch(rows).to(device).float().div(255)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of every image."""
        return tuple(self.source.shape[1:]) if isinstance(self.source, Tensor) else self.source.shape

    def batch(self, rows: Tensor, device: torch.device) -> tuple[Images, Tensor, Tensor]:
        """The images (B, C, H, W), labels (B,) and index (B,) of ``rows``, on ``device``."""
        return self.images(rows, device), self.labels[rows].to(device), self.index[rows].to(device)

    def sample(self, size: int) -> Tensor:
        """(n,) positions of at most ``size`` examples, drawn by their index: the order of the set decides nothing."""
        drawn = CounterNoise(0, self.index).uniform(torch.empty(len(self), 1, dtype=torch.float64)).flatten()
        by_index = self.index.argsort()
        return by_index[drawn[by_index].argsort(stable=True)][:size]

    def right(self, rows: Tensor, prediction: Tensor) -> Tensor:
        """(B,) bool: the prediction is the label of that row, or one of its accepted classes; -1 never is.

        Args:
            rows: (B,) positions.
            prediction: (B,) classes, -1 where there is none; on the CPU, as the result.
        """
        if self.accepted is None:
            return prediction == self.labels[rows]
        return self.accepted[rows, prediction.clamp(min=0)] & (prediction >= 0)

    @classmethod
    def of(
        cls,
        images: Tensor | np.ndarray | ImageSet,
        labels: Tensor | np.ndarray | None,
        index: Tensor | np.ndarray | None = None,
    ) -> Examples:
        """Checked examples.

        Raises:
            UserError: If images are not float in [0, 1] and NCHW, labels or index do not fit them, or there are none.
        """
        if isinstance(images, ImageSet):
            found = cls(images.labels, images.index, images.hash, images, images.accepted)
        else:
            found = cls._of_tensors(_tensor(images), _tensor(labels), _tensor(index))
        if not len(found):
            raise UserError("examples", 0, "at least one image")
        if len(found.index.unique()) < len(found):
            raise UserError("index", "the same number twice", "a number of its own for every example")
        return found

    @classmethod
    def _of_tensors(cls, images: Tensor, labels: Tensor | None, index: Tensor | None) -> Examples:
        _check_images(images)
        if labels is None or not _whole_numbers(labels, len(images)):
            given = None if labels is None else f"{labels.dtype} {tuple(labels.shape)}"
            raise UserError("labels", given, f"({len(images)},) integer classes")
        if index is not None and not _whole_numbers(index, len(images)):
            raise UserError("index", f"{index.dtype} {tuple(index.shape)}", f"({len(images)},) integers")
        labels = labels.cpu().long()
        rows = torch.arange(len(images)) if index is None else index.cpu().long()
        # Contiguous: another memory format takes other kernels with other last bits
        images = images.detach().float().contiguous()
        digest = hashlib.sha256(images.cpu().numpy().data)
        digest.update(labels.contiguous().numpy().data)
        return cls(labels, rows, digest.hexdigest(), images)


@overload
def _tensor(values: Tensor | np.ndarray) -> Tensor: ...
@overload
def _tensor(values: Tensor | np.ndarray | None) -> Tensor | None: ...
def _tensor(values: Tensor | np.ndarray | None) -> Tensor | None:
    return torch.as_tensor(values) if isinstance(values, np.ndarray) else values


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or not images.is_floating_point():
        given = f"{images.dtype} {tuple(images.shape)}"
        raise UserError("images", given, "a float tensor (N, C, H, W) in [0, 1]", "images.float() / 255")
    low, high = (images.min().item(), images.max().item()) if images.numel() else (0.0, 1.0)
    if not (low >= 0 and high <= 1):
        raise UserError("images", f"values in [{low:g}, {high:g}]", "[0, 1]", "normalisation inside the model")


def _whole_numbers(column: Tensor, size: int) -> bool:
    whole = not (column.is_floating_point() or column.is_complex() or column.dtype == torch.bool)
    return whole and column.shape == (size,)
