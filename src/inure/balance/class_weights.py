"""What the criteria for imbalanced classes are made of: the counts, effective numbers, weights, the log prior.

All of it is K numbers, in float64 where the device has that (``finest``), made once for a batch (in ``at``), not at
every step of the attack.
"""

from __future__ import annotations

import math

from ..libraries import Tensor, torch
from ..losses import cross_entropy
from ..memory import CLASS_COUNTS
from ..types import Batch, Criterion, Labels, Logits, PerExample


def counts_of(batch: Batch) -> Tensor:
    """(K,): training examples of each class; do not change them in place."""
    return batch.memory[CLASS_COUNTS]


def effective_numbers(counts: Tensor, beta: float) -> Tensor:
    """(1 - beta^n) / (1 - beta), (K,): 1 for every class at beta 0, n at beta 1 (Cui et al., 2019)."""
    if beta == 1:
        return counts
    if beta == 0:
        return (counts > 0).to(counts)
    return -torch.expm1(counts * math.log(beta)) / (1 - beta)


def balanced(raw: Tensor, counts: Tensor) -> Tensor:
    """``raw`` weights (K,) with mean 1 over the classes that have examples, 0 for the others."""
    there = counts > 0
    raw = torch.where(there, raw, 0.0)
    return raw * (there.sum() / raw.sum())


def effective_weights(counts: Tensor, beta: float) -> Tensor:
    """(K,), inversely proportional to the effective numbers, with mean 1."""
    return balanced(1 / effective_numbers(counts, beta), counts)


def log_prior(counts: Tensor) -> Tensor:
    """(K,), log(n / n_max): exactly 0 where all are alike. A class without examples counts as having one."""
    counts = counts.clamp_min(1)
    return (counts / counts.max()).log()


def weight_of(weights: Tensor, y: Labels) -> PerExample:
    """(B,) the weight of each label; of a soft label the mean under it."""
    return y.to(weights) @ weights if y.is_floating_point() else weights[y]


def weighted(weights: Tensor, batch: Batch) -> Criterion:
    """Cross-entropy times the weight of the label."""
    weights = weights.to(batch.x)

    def criterion(logits: Logits, y: Labels) -> PerExample:
        return weight_of(weights, y) * cross_entropy(logits, y)

    return criterion


def less_at_label(logits: Logits, y: Labels, margins: Tensor) -> Logits:
    """The logits with ``margins`` (K,) taken from that of the label; from a soft label's, each its share."""
    if y.is_floating_point():
        return logits - y * margins
    return logits - torch.nn.functional.one_hot(y, len(margins)) * margins
