"""Per-example losses: logits (B, K) and labels, hard (B,) or soft (B, K), in; (B,) out. train.py takes the mean."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .types import Labels, Logits, PerExample


def cross_entropy(logits: Logits, y: Labels, label_smoothing: float = 0.0) -> PerExample:
    """-sum_k y_k log softmax(logits)_k."""
    return F.cross_entropy(logits, y, reduction="none", label_smoothing=label_smoothing)


def kl(logits: Logits, target_log_probs: Tensor) -> PerExample:
    """KL(target || prediction), the target given as log-probabilities (B, K).

    Gradients flow through both arguments; detach the target to cut one.
    """
    return F.kl_div(logits.log_softmax(1), target_log_probs, reduction="none", log_target=True).sum(1)


def margin(logits: Logits, y: Labels, kappa: float = 50.0) -> PerExample:
    """min(max_{j != y} z_j - z_y, kappa): the margin loss of Carlini and Wagner (2017, arXiv:1608.04644).

    Positive where the example is misclassified; past ``kappa`` there is nothing left to gain.
    """
    y = hard(y)
    true = logits.gather(1, y[:, None]).squeeze(1)
    return (_without(logits, y).amax(1) - true).clamp_max(kappa)


def boosted_cross_entropy(logits: Logits, y: Labels) -> PerExample:
    """Cross-entropy plus -log(1 - p of the strongest wrong class) (MART, Wang et al., 2020).

    The constants 1.0001 and 1e-12 are the official code's. With soft labels the wrong classes are all but the
    likeliest label: our extension, the paper has hard labels only.
    """
    probs = logits.softmax(1)
    strongest_wrong = probs.scatter(1, hard(y)[:, None], 0.0).amax(1)
    return cross_entropy(logits, y) - torch.log(1.0001 - strongest_wrong + 1e-12)


def probability_of(logits: Logits, y: Labels) -> PerExample:
    """The probability that the prediction gives to the label; its mean under a soft label."""
    probs = logits.softmax(1)
    return (probs * y).sum(1) if y.is_floating_point() else probs.gather(1, y[:, None]).squeeze(1)


def entropy_of(logits: Logits) -> PerExample:
    """-sum_k p_k log p_k of p = softmax(logits), in nats; 0 log 0 is 0."""
    return torch.special.entr(logits.softmax(1)).sum(1)


def hard(y: Labels) -> Tensor:
    """(B,) classes: the likeliest one of a soft label."""
    return y.argmax(1) if y.is_floating_point() else y


def _without(logits: Logits, y: Tensor) -> Logits:
    return logits.scatter(1, y[:, None], float("-inf"))
