"""Which parameters decay, and fields that every optimizer has."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from ..libraries import nn
from ..settings.config import Real, Settings

_UNDECAYED = ("cls_token", "pos_embed", "dist_token", "reg_token", "relative_position_bias_table", "prompt")


class OptimizerSettings(Settings):
    """The fields that all optimizers share."""

    lr: Annotated[Real, Field(gt=0)] = 0.1
    weight_decay: Annotated[Real, Field(ge=0)] = 5e-4
    decay_all: bool = False
    """Decay norms, biases, tokens and position embeddings too, as Rice et al. and Mo et al. do."""
    clip_norm: Annotated[Real, Field(gt=0)] | None = None
    """Clip the gradient to this global L2 norm. The norm before clipping is logged either way."""

    @property
    def long_run_step(self) -> float | None:
        """The step that a constant gradient of 1 ends in, for lr 1: what lr is worth. None: lr alone does not say."""
        return None


def parameter_groups(model: nn.Module, weight_decay: float, *, decay_all: bool) -> list[dict[str, Any]]:
    """Two groups: with and without weight decay.

    Without: vectors and scalars (norms, biases), class, register and prompt tokens, position embeddings. What exists
    once per domain is judged by what it is in one domain.
    """
    from ..models.adapters.stacks import adapter_names

    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    stacked = adapter_names(model)
    decayed = [p for name, p in trainable if decay_all or _decays(name, p.ndim - (name in stacked))]
    chosen = {id(p) for p in decayed}
    rest = [p for _, p in trainable if id(p) not in chosen]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _decays(name: str, ndim: int) -> bool:
    return ndim > 1 and not any(part in name for part in _UNDECAYED)
