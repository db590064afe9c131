"""A long tail on purpose: how many training images each class keeps, and which ones.

The test split is never touched. Counts are exact or refused: no class is capped silently at what it has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from ..libraries import Tensor, np, torch
from ..settings.config import Real, Settings, Whole
from ..settings.errors import UserError
from .chosen_rows import read_rows
from .class_numbers import class_numbers
from .image_set import ImageSet

Seed = Annotated[Whole, Field(ge=0, lt=2**32)]
_ORDER_STREAM = 1


class TailSettings(Settings):
    """What the profiles that follow a formula share. n_c = int(n_max * share), rounded down as in the papers' code."""

    ratio: Annotated[Real, Field(ge=1)] = 50.0
    """Images of the first class over images of the last one (the imbalance ratio; 1 / ``imb_factor``)."""
    examples: Annotated[Whole, Field(ge=1)] | None = None
    """Images of the first class, n_max; None is the most that every class has: |train| / C of a balanced set."""
    order: list[Whole | str] | Literal["random"] | None = None
    """Classes from head to tail, named or numbered; None is the order of the labels, ``random`` one by ``seed``."""
    seed: Seed = 0
    """Which images are kept, and which order ``random`` is."""


class Exponential(TailSettings):
    """n_c = int(n_max * ratio^(-c / (C - 1))) (Cui et al., 2019, arXiv:1901.05555; CIFAR-10-LT, CIFAR-100-LT)."""

    kind: Literal["exp"] = "exp"

    def share(self, place: int, classes: int) -> float:
        """ratio^(-place / (C - 1))."""
        # The operations of the published code in its order: another order of them rounds some counts differently.
        return (1 / self.ratio) ** (place / (classes - 1.0))


class Step(TailSettings):
    """The first half of the classes n_max, the others int(n_max / ratio) (Buda et al., 2018, arXiv:1710.05381).

    Of an odd number of classes the one in the middle belongs to the tail. (The published code of LDAM drops it.)
    """

    kind: Literal["step"] = "step"

    def share(self, place: int, classes: int) -> float:
        """1 or 1 / ratio."""
        return 1.0 if place < classes // 2 else 1 / self.ratio


class Pareto(TailSettings):
    """n_c = int(n_max * (c + 1)^(-1 / alpha)), 1 / alpha = log(ratio) / log(C): a power law of the rank.

    Our deterministic form, which ends at n_max / ratio. ImageNet-LT (Liu et al., 2019, arXiv:1904.05160) draws its
    counts from a Pareto distribution of alpha 6 [recalled]; to have those images, give their rows (kind ``file``).
    """

    kind: Literal["pareto"] = "pareto"

    def share(self, place: int, classes: int) -> float:
        """(place + 1)^(-1 / alpha)."""
        return (1 / self.ratio) ** (math.log(place + 1) / math.log(classes))


class Counts(Settings):
    """A number of images for every class, in the order of the labels."""

    kind: Literal["counts"] = "counts"
    counts: Annotated[list[Annotated[Whole, Field(ge=1)]], Field(min_length=2)]
    seed: Seed = 0
    """Which images are kept."""


class Rows(Settings):
    """The rows of an earlier run, or of a list: the same images again."""

    kind: Literal["file"] = "file"
    rows: str
    """A run directory, the ``rows.safetensors`` in one, or a .json file with a list of rows of the training split."""


LongTail = Annotated[Exponential | Step | Pareto | Counts | Rows, Field(discriminator="kind")]


def choose(tail: LongTail, images: ImageSet) -> Tensor:
    """The positions of the images that are kept, (M,) int64, by class and within a class rising.

    Raises:
        UserError: If a class would keep none or has fewer images than wanted, or the settings are of other classes.
    """
    if isinstance(tail, Rows):
        return _positions_of(tail, images)
    available = torch.bincount(images.labels, minlength=images.num_classes).tolist()
    if isinstance(tail, Counts):
        counts = _given_counts(tail, available, images.class_names)
    else:
        counts = tail_counts(tail, available, images.class_names)
    return keep(images.labels, counts, tail.seed)


def tail_counts(tail: Exponential | Step | Pareto, available: Sequence[int], names: Sequence[str]) -> list[int]:
    """Images to keep of each class, in the order of the labels.

    Raises:
        UserError: If a class has fewer, or would keep none.
    """
    if len(names) < 2:
        raise UserError("data.long_tail", f"data of {len(names)} class", "at least 2 classes")
    most = tail.examples if tail.examples is not None else min(available)
    counts = [0] * len(names)
    for place, label in enumerate(_from_head_to_tail(tail, names)):
        counts[label] = int(most * tail.share(place, len(names)))
    for name, count, there in zip(names, counts, available, strict=True):
        if count > there:
            given = f"{most}: class {name} would keep {count} images and has {there}"
            raise UserError("data.long_tail.examples", given, "a number that every class has its part of", "null")
        if count < 1:
            given = f"{tail.ratio:g}: where the first class keeps {most} images, class {name} would keep none"
            raise UserError("data.long_tail.ratio", given, "a ratio that leaves every class an image")
    return counts


def _from_head_to_tail(tail: TailSettings, names: Sequence[str]) -> list[int]:
    if tail.order is None:
        return [*range(len(names))]
    if tail.order == "random":
        # A stream of its own: the order changes no choice of images within a class.
        return np.random.RandomState(np.random.MT19937([tail.seed, _ORDER_STREAM])).permutation(len(names)).tolist()
    numbers = class_numbers(tail.order, names, "data.long_tail.order")
    if len(numbers) < len(names):
        missing = next(name for k, name in enumerate(names) if k not in numbers)
        raise UserError("data.long_tail.order", f"{len(numbers)} classes, without {missing}", "every class once")
    return numbers


def _given_counts(tail: Counts, available: Sequence[int], names: Sequence[str]) -> list[int]:
    if len(tail.counts) != len(names):
        allowed = f"{len(names)} numbers, one for each class"
        raise UserError("data.long_tail.counts", f"{len(tail.counts)} numbers", allowed)
    for name, count, there in zip(names, tail.counts, available, strict=True):
        if count > there:
            raise UserError("data.long_tail.counts", f"{count} for class {name}", f"at most {there}, all it has")
    return tail.counts


def keep(labels: Tensor, counts: Sequence[int], seed: int) -> Tensor:
    """The positions of ``counts[c]`` images of every class c, by class and within a class rising.

    The stream is that of the published code (LDAM, REAT, AT-BSL): numpy's legacy generator, seeded once, shuffles the
    rows of class 0, then of class 1, and so on, and the first n_c of each are kept. From files in the order of the
    original CIFAR batches it picks the same images; others may hold the same images in another order.
    """
    random = np.random.RandomState(seed)
    every, kept = labels.numpy(), []
    for label, count in enumerate(counts):
        rows = np.flatnonzero(every == label)
        random.shuffle(rows)
        kept.append(np.sort(rows[:count]))
    return torch.from_numpy(np.concatenate(kept))


def _positions_of(tail: Rows, images: ImageSet) -> Tensor:
    rows, labels = read_rows(tail.rows, "data.long_tail.rows")
    order = rows.argsort()
    positions = torch.isin(images.index, rows).nonzero().flatten()
    positions = positions[images.index[positions].argsort()]
    given = None
    if len(positions) < len(rows):
        given = f"{tail.rows}, of whose {len(rows)} rows {len(rows) - len(positions)} are not in data.source"
    elif labels is not None and not torch.equal(images.labels[positions], labels[order]):
        given = f"{tail.rows}, whose rows have other labels in data.source"
    if given is not None:
        allowed = "rows of these training images (data.source, data.classes, data.examples)"
        raise UserError("data.long_tail.rows", given, allowed)
    return positions[images.labels[positions].argsort(stable=True)]
