"""Batches in an order that is a function of (seed, epoch) alone, so that any step can be taken up again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..libraries import Tensor, np, torch
from ..settings.errors import UserError
from ..types import Images, Labels
from .augment import Augment
from .image_set import ImageSet


class Loader:
    """Shuffled batches of an image set, the share of one rank.

    ``batch_size`` counts the images of one step over all ranks; each rank takes an equal slice of them. The last
    batch of an epoch is smaller; it is wrapped around (it takes its missing images from the epoch's beginning)
    to be divided equally, so that every rank makes as many steps. It is dropped if it would leave a rank with a
    single image, from which BatchNorm cannot tell a variance, or if ``drop_last``.

    Sets in memory are moved to ``device`` once and gathered there. Lazy sets are decoded by workers ahead of time.
    """

    def __init__(
        self,
        image_set: ImageSet,
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        augment: Augment | None = None,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        num_workers: int = 2,
    ) -> None:
        """``augment`` is not applied here: it is kept for the trainer's call of ``to_batch``.

        Raises:
            UserError: If the batch cannot be divided among the ranks, or no batch can be made of the set.
        """
        if batch_size < 1 or batch_size % world_size:
            raise UserError("batch_size", batch_size, f"a multiple of {world_size}, the number of devices")
        self.device = torch.device(device)
        self.image_set = image_set.to(self.device)
        self.augment = augment
        self._batch_size, self._seed = batch_size, seed
        self._rank, self._world_size, self._num_workers = rank, world_size, num_workers
        self._labels = image_set.labels.to(self.device)
        left_over = len(image_set) % batch_size
        single = -(-left_over // world_size) == 1 and batch_size > world_size
        self._keeps_last = left_over > 0 and not drop_last and not single
        if self.steps_per_epoch == 0:
            most = "images for one batch of at least 2 per device"
            raise UserError("batch_size", f"{batch_size} for {len(image_set)} images", f"enough {most}")

    @property
    def steps_per_epoch(self) -> int:
        """Batches of every epoch, the same on every rank."""
        return len(self.image_set) // self._batch_size + self._keeps_last

    def rows(self, epoch: int) -> list[Tensor]:
        """The rows of each batch of an epoch, (B,) int64 each, for this rank."""
        # Legacy generator: its stream is frozen by numpy, so a resumed run sees the same order after an upgrade.
        random = np.random.RandomState(np.random.MT19937([self._seed, epoch]))
        order = torch.from_numpy(random.permutation(len(self.image_set)))
        batches = []
        for step in range(self.steps_per_epoch):
            start = step * self._batch_size
            share = -(-min(self._batch_size, len(order) - start) // self._world_size)
            first = start + share * self._rank
            batches.append(order[torch.arange(first, first + share) % len(order)])
        return batches

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Labels, Tensor]]:
        """The batches of an epoch from number ``start`` on; those before cost nothing.

        Yields:
            uint8 images (B, C, H, W), labels (B,) and rows of the image set (B,), all on the device.
        """
        batches = self.rows(epoch)[start:]
        if self.image_set.in_memory:
            yield from self._gathered(batches)
        else:
            yield from self._decoded(batches)

    def _gathered(self, batches: list[Tensor]) -> Iterator[tuple[Tensor, Labels, Tensor]]:
        if not batches:
            return
        # One copy to the device for the epoch; splitting it makes views.
        together = torch.cat(batches).to(self.device)
        for rows in together.split([len(rows) for rows in batches]):
            yield self.image_set.batch(rows), self._labels[rows], rows

    def _decoded(self, batches: list[Tensor]) -> Iterator[tuple[Tensor, Labels, Tensor]]:
        pinned = self.device.type == "cuda"
        batched: Any = _Batches(self.image_set, batches)  # as good as a Dataset, which torch would be loaded for
        images = torch.utils.data.DataLoader(
            batched,
            batch_size=None,
            num_workers=self._num_workers,
            pin_memory=pinned,
            # A generator of its own: the default one belongs to the training step.
            generator=torch.Generator(),
        )
        together = torch.cat(batches).to(self.device) if batches else torch.empty(0)
        for rows, x in zip(together.split([len(rows) for rows in batches]), images, strict=True):
            if isinstance(x, UserError):
                raise x
            yield x.to(self.device, non_blocking=pinned), self._labels[rows], rows


class _Batches:
    """One item a batch. A bad image is handed over as an error: raised in a worker, it would lose its type."""

    def __init__(self, image_set: ImageSet, batches: list[Tensor]) -> None:
        self._image_set, self._batches = image_set, batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, item: int) -> Tensor | UserError:
        try:
            return self._image_set.batch(self._batches[item])
        except UserError as error:
            return error


def to_batch(x: Tensor, y: Labels, augment: Augment | None, num_classes: int) -> tuple[Images, Labels]:
    """From what a loader yields to what a model sees.

    Args:
        x: (B, C, H, W) uint8.
        y: (B,) classes.
        augment: Crops, flips and changes each, then mixes; None leaves the images as they are.
        num_classes: K of the soft labels that mixing makes.

    Returns:
        float32 images in [0, 1], and labels: (B,) as given, or (B, K) if ``augment`` mixes.
    """
    if augment is None:
        return x.float().div_(255), y
    x = augment.geometric(x).float().div_(255)
    return augment.mix(x, y, num_classes) if augment.mixes else (x, y)
