"""What a run says of its criteria before it begins, because it would not be noticed otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..libraries import nn


def notices(recipe: Any, net: nn.Module) -> Iterator[tuple[str, str]]:
    """(kind, detail) of the warnings: weights that an attack does not see, criteria that want cosines."""
    balance, method = recipe.balance, recipe.method
    if inert(recipe, net):
        yield (
            "inert_balance",
            f"balance.attack.kind={balance.attack.kind} multiplies each image's gradient by a positive number, which "
            "the attack does not see: it takes signs or normalised gradients, and no image depends on the others; the "
            f"images are those of cross-entropy; try {' or '.join(_remedies(method, net))}",
        )
    for name in ("attack", "train"):
        criterion = getattr(balance, name)
        if getattr(criterion, "needs_cosine", False) and recipe.model.head.kind != "cosine":
            detail = f"balance.{name}.kind={criterion.kind} is made for cosines; try model.head.kind=cosine"
            yield "needs_cosine", detail


def _remedies(method: Any, net: nn.Module) -> Iterator[str]:
    """What makes classes count in the attack; through batch statistics only where there are any, and a choice."""
    yield "balance.attack.kind=balanced_softmax"
    yield "balance.epsilon.share=0.3"
    if hasattr(method, "attack_mode") and _batch_norms(net):
        yield "method.attack_mode=train_frozen_stats"


def inert(recipe: Any, net: nn.Module) -> bool:
    """Whether the attack's criterion only weighs examples, where that cannot change any adversarial image.

    The gradient of an image is then a positive multiple of that of its cross-entropy. All attacks for training see
    its sign, its direction at unit length, or its order of coordinates, and compare losses within one image only. It
    has an effect where images are coupled (BatchNorm with batch statistics, which it has in eval mode too if it keeps
    no running ones; an attack or method that ``couples`` them) or a penalty's term stands beside it.
    """
    method = recipe.method
    criterion = recipe.balance.attack
    if not getattr(criterion, "only_weights", False) or not hasattr(method, "attack"):
        return False
    mixed = recipe.augment is not None and recipe.augment.mixes
    if mixed and getattr(criterion, "only_hard", False):
        return False
    norms = _batch_norms(net)
    statistics = any(method.attack_mode != "eval" or not norm.track_running_stats for norm in norms)
    attacks = (method.attack, *getattr(method, "adversaries", {}).values())
    coupled = statistics or any(getattr(piece, "couples", False) for piece in (method, *attacks))
    beside = any(hasattr(penalty, "attack_term") for penalty in recipe.penalties)
    return not coupled and not beside


def _batch_norms(net: nn.Module) -> list[Any]:
    return [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
