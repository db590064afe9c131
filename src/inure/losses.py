"""Per-example losses: logits (B, K) and labels, hard (B,) or soft (B, K), in; (B,) out. ``train_step`` averages."""

from __future__ import annotations

from .libraries import F, Tensor, torch
from .settings.errors import UserError
from .types import Labels, Logits, PerExample

_NO_DIVISION_BY_ZERO = 1e-12
"""Where the largest logits tie; with it the ratio and its gradient stay finite in float32."""


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


def dlr(logits: Logits, y: Labels) -> PerExample:
    """-(z_y - max_{i != y} z_i) / (z_(1) - z_(3)): the difference of logits ratio (Croce and Hein, 2020,
    arXiv:2003.01690), z_(k) the k-th largest logit.

    Unlike cross-entropy it does not change when all logits are scaled or shifted, so that confidence hides nothing.

    Raises:
        UserError: For fewer than 3 classes.
    """
    _need_classes("dlr", logits, 3)
    y = hard(y)
    top = logits.topk(3, dim=1).values
    gap = logits.gather(1, y[:, None]).squeeze(1) - _without(logits, y).amax(1)
    return -gap / (top[:, 0] - top[:, 2] + _NO_DIVISION_BY_ZERO)


def targeted_dlr(logits: Logits, y: Labels, target: Tensor) -> PerExample:
    """-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2): the same towards the classes ``target`` (B,).

    Raises:
        UserError: For fewer than 4 classes.
    """
    _need_classes("targeted_dlr", logits, 4)
    top = logits.topk(4, dim=1).values
    scale = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
    return targeted_margin(logits, y, target) / (scale + _NO_DIVISION_BY_ZERO)


def targeted_margin(logits: Logits, y: Labels, target: Tensor) -> PerExample:
    """z_t - z_y: what the multi-targeted attack climbs (Gowal et al., 2019, arXiv:1910.09338)."""
    true, aimed = logits.gather(1, torch.stack([hard(y), target], 1)).unbind(1)
    return aimed - true


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


def _need_classes(name: str, logits: Logits, least: int) -> None:
    if logits.shape[1] < least:
        given, allowed = f"a net of {logits.shape[1]} classes", f"at least {least} classes for {name}"
        raise UserError("loss", given, allowed, "margin or cross_entropy")


def _without(logits: Logits, y: Tensor) -> Logits:
    return logits.scatter(1, y[:, None], float("-inf"))
