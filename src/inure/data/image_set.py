"""Labelled images of one shape, held as uint8 in memory or decoded when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..libraries import Tensor, torch
from .readout import Readout


@dataclass(frozen=True)
class Lazy:
    """Pixels that stay encoded: ``decode(rows)`` makes the uint8 images of those rows of the source."""

    decode: Callable[[Tensor], Tensor]
    rows: Tensor
    """(N,) int64: row of the source behind each image of the set."""


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """A data set for classification; what ``load`` returns and everything else reads."""

    labels: Tensor
    """(N,) int64, on the CPU."""
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    """(C, H, W) of every image."""
    index: Tensor
    """(N,) int64: row over the files of the split sorted by name, counted before bad rows are skipped."""
    hash: str
    """sha256 (hex) over the contents of the files, or over the bytes of the arrays. A subset keeps it."""
    skipped: int
    """Images that were left out: they could not be decoded, or (ImageNet-ReaL) have no right class."""
    name: str
    """The SPEC that was loaded."""
    pixels: Tensor | Lazy
    """(N, C, H, W) uint8, or where to decode them from."""
    readout: Readout | None = None
    """How a net of other classes answers this set; the labels count the classes of the readout."""
    accepted: Tensor | None = None
    """(N, K) bool, on the CPU: the right classes of each image, in sets where there may be several."""
    true_labels: Tensor | None = None
    """(N,) int64, on the CPU: what the labels were before label noise."""

    def __post_init__(self) -> None:
        held = self.pixels.rows if isinstance(self.pixels, Lazy) else self.pixels
        assert len(self.labels) == len(self.index) == len(held)
        assert isinstance(held, Tensor)
        assert self.readout is None or len(self.readout.groups) == self.num_classes
        assert self.true_labels is None or len(self.true_labels) == len(self.labels)
        assert self.accepted is None or self.accepted.shape == (len(self.labels), self.num_classes)
        assert isinstance(self.pixels, Lazy) or (held.dtype == torch.uint8 and held.shape[1:] == self.shape)

    @classmethod
    def from_arrays(
        cls, images: Tensor, labels: Tensor, class_names: tuple[str, ...] | None = None, name: str = "arrays"
    ) -> ImageSet:
        """A set in memory from (N, C, H, W) uint8 images and (N,) integer labels."""
        labels = labels.to("cpu", torch.int64)
        digest = hashlib.sha256(images.cpu().contiguous().numpy().data)
        digest.update(labels.contiguous().numpy().data)
        names = class_names or tuple(str(k) for k in range(int(labels.max()) + 1))
        channels, height, width = images.shape[1:]
        return cls(
            labels=labels,
            class_names=names,
            shape=(channels, height, width),
            index=torch.arange(len(labels)),
            hash=digest.hexdigest(),
            skipped=0,
            name=name,
            pixels=images,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        place = f"in memory ({self.device})" if self.in_memory else "decoded on demand"
        return f"ImageSet({self.name}: {len(self)} images {shape}, {self.num_classes} classes, {place})"

    @property
    def num_classes(self) -> int:
        """How many classes there are; some may have no image here."""
        return len(self.class_names)

    @property
    def in_memory(self) -> bool:
        """Whether the pixels are one tensor."""
        return isinstance(self.pixels, Tensor)

    @property
    def device(self) -> torch.device:
        """Where ``batch`` puts images: the device of the pixels, the CPU for a lazy set."""
        return self.pixels.device if isinstance(self.pixels, Tensor) else torch.device("cpu")

    def subset(self, rows: Tensor) -> ImageSet:
        """The images at ``rows`` ((M,) int64), in that order, with their labels and ``index``."""
        rows = rows.to("cpu", torch.int64)
        if isinstance(self.pixels, Tensor):
            pixels = self.pixels[rows.to(self.device)]
        else:
            pixels = replace(self.pixels, rows=self.pixels.rows[rows])
        accepted = None if self.accepted is None else self.accepted[rows]
        true = None if self.true_labels is None else self.true_labels[rows]
        return replace(
            self, labels=self.labels[rows], index=self.index[rows], pixels=pixels, accepted=accepted, true_labels=true
        )

    def of_classes(self, classes: Sequence[int]) -> ImageSet:
        """The images of some classes, whose labels then count in the order given."""
        assert self.readout is None
        assert self.accepted is None
        assert self.true_labels is None
        rows, labels = rows_of_classes(self.labels, classes)
        names = tuple(self.class_names[k] for k in classes)
        return replace(self.subset(rows), labels=labels, class_names=names)

    def head(self, n: int | None) -> ImageSet:
        """The first ``n`` images, or all of them if there are fewer or ``n`` is None."""
        assert n is None or n >= 0
        if n is None or n >= len(self):
            return self
        if not isinstance(self.pixels, Tensor):
            return self.subset(torch.arange(n))
        accepted = None if self.accepted is None else self.accepted[:n]
        true = None if self.true_labels is None else self.true_labels[:n]
        return replace(
            self, labels=self.labels[:n], index=self.index[:n], pixels=self.pixels[:n], accepted=accepted,
            true_labels=true,
        )  # fmt: skip

    def batch(self, rows: Tensor) -> Tensor:
        """The (B, C, H, W) uint8 images at ``rows``, on the pixels' device.

        Raises:
            UserError: If an image of a lazy set cannot be decoded; names the file and the row.
        """
        if isinstance(self.pixels, Tensor):
            return self.pixels.index_select(0, rows.to(self.device))
        return self.pixels.decode(self.pixels.rows[rows.cpu()])

    def examples(self, rows: Tensor, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
        """What a net is shown: images (B, C, H, W) float32 in [0, 1], labels (B,) and index (B,) of ``rows`` (B,).

        On ``device``; not augmented.

        Raises:
            UserError: As ``batch``.
        """
        x = self.batch(rows).to(device).float().div(255)
        return x, self.labels[rows].to(device), self.index[rows].to(device)

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set with its pixels on ``device``; a lazy set stays as it is."""
        if not isinstance(self.pixels, Tensor):
            return self
        return replace(self, pixels=self.pixels.to(device))


def rows_of_classes(labels: Tensor, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Which of (N,) labels are among ``classes``, and the place of each of them there, both (M,) int64."""
    rows, places = (labels[:, None] == torch.tensor(classes)).nonzero(as_tuple=True)
    return rows, places
