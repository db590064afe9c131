"""REAT's inner loss: weights by how often a class was predicted under attack (Li et al., 2023, arXiv:2307.10205)."""

from __future__ import annotations

from typing import ClassVar, Literal

from ..libraries import Tensor, torch
from ..settings.config import Settings
from ..types import Batch, Criterion
from .class_weights import balanced, counts_of, weighted
from .counter import last_counts

_OFFICIAL = 1e-5
"""What the official code adds to the effective number before it divides."""


class Rebalanced(Settings):
    """w_y CE(z, y), w_c proportional to 1 / E_c with mean 1, E_c = (1 - b_c^m_c) / (1 - b_c), b_c = (n_c - 1) / n_c.

    m_c is how many adversarial images were predicted as c in the epoch before (``Counter``); at first m = n, where the
    weights are within 0.3 % of inverse frequencies. E_c grows with m_c from 1 (m = 1) towards n_c.

    From the official code (the paper's text was not at hand). The code has this loss inside the attack, where **it does
    nothing**: it is a positive weight of each example, which neither a sign nor a normalised gradient sees. A run says
    so (``notices.py``). A soft label has the mean weight under it.

    Note:
        E is -n expm1(m log1p(-1 / n)) in float64: the official float32 form can exceed n. A class that nothing was
        predicted as has E_c = 0, and the official weight 1e5 leaves 1e-5 or less for the others; here m counts as at
        least 1, so that E_c >= 1, unless ``faithful``. n_c = 1 gives E = 1. A class without examples has weight 0;
        officially it is a division by zero.
    """

    only_weights: ClassVar[bool] = True
    """Each example's cross-entropy times a positive number, under soft labels too: see ``notices.py``."""
    needs_counter: ClassVar[bool] = True

    kind: Literal["rebalanced"] = "rebalanced"
    faithful: bool = False
    """The weight 1 / (E + 1e-5), as large as 1e5 for a class that nothing was predicted as."""

    def weights(self, counts: Tensor, predicted: Tensor) -> Tensor:
        """(K,) with mean 1, from examples and predictions of each class."""
        if self.faithful:
            return balanced(1 / (effective_numbers(counts, predicted) + _OFFICIAL), counts)
        return balanced(1 / effective_numbers(counts, predicted.clamp_min(1)), counts)

    def at(self, batch: Batch) -> Criterion:
        """The criterion with the counts of the run and the predictions of the last epoch."""
        return weighted(self.weights(counts_of(batch), last_counts(batch.memory)), batch)


def effective_numbers(counts: Tensor, predicted: Tensor) -> Tensor:
    """(K,): n (1 - (1 - 1/n)^m); n at least 1."""
    counts = counts.clamp_min(1)
    return -torch.expm1(torch.special.xlog1py(predicted, -1 / counts)) * counts
