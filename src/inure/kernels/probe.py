"""Images at which kernels are compared over time: a fixed list, with equally many of each class."""

from __future__ import annotations

from ..data import ImageSet
from ..libraries import Tensor, torch
from ..noise import CounterNoise


def balanced_rows(images: ImageSet, count: int) -> Tensor:
    """(n,) rows of at most ``count`` images, as many of each class as there are, ordered by class.

    Drawn by the images' index alone: the same images at every call, in every process, whatever their order in the
    set. Where a class has too few, the others give more.
    """
    drawn = CounterNoise(0, images.index).uniform(torch.empty(len(images), 1, dtype=torch.float64)).flatten()
    by_index = images.index.argsort()
    order = by_index[drawn[by_index].argsort(stable=True)]
    labels = images.labels[order]
    same_before = _rank_in_class(labels)
    chosen = order[same_before.argsort(stable=True)][:count]
    return chosen[images.labels[chosen].argsort(stable=True)]


def _rank_in_class(labels: Tensor) -> Tensor:
    """(N,) how many earlier ones have the same label."""
    grouped = labels.argsort(stable=True)
    counts = labels.bincount()
    first = (counts.cumsum(0) - counts)[labels[grouped]]
    ranks = torch.empty_like(labels)
    ranks[grouped] = torch.arange(len(labels)) - first
    return ranks
