"""Parameters that exist once per domain. To add a kind: write the file, add it here, add its card."""

from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from torch import nn

from ...settings.config import Settings, Whole
from ...settings.errors import UserError
from . import batchnorm, bias, bottleneck, cls_token, everything, head, lora, norm, patch_embed, position, prompt
from .mixture import Mix, Mixture
from .settle import settle

ADAPTERS: dict[str, ModuleType] = {
    "cls_token": cls_token,
    "norm": norm,
    "batchnorm": batchnorm,
    "position": position,
    "patch_embed": patch_embed,
    "head": head,
    "bias": bias,
    "prompt": prompt,
    "bottleneck": bottleneck,
    "lora": lora,
    "all": everything,
}
Kind = Literal[
    "cls_token", "norm", "batchnorm", "position", "patch_embed", "head", "bias", "prompt", "bottleneck", "lora", "all"
]
_Positive = Annotated[Whole, Field(ge=1)]


class Adapters(Settings):
    """Which parameters exist once per domain. ``model.adapters=cls_token`` is short for ``kinds: [cls_token]``."""

    kinds: Annotated[list[Kind], Field(min_length=1)] = ["cls_token"]
    domains: Annotated[list[str], Field(min_length=2)] = ["clean", "robust"]
    prompt_tokens: _Positive = 4
    bottleneck_width: _Positive = 16
    lora_rank: _Positive = 8
    lora_mix: Literal["factors", "product"] = "factors"
    """What a mix of several domains weighs: down and up, or their product."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"kinds": [value]}
        return {"kinds": value} if isinstance(value, list) else value

    @field_validator("kinds", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _refuse_impossible(self) -> "Adapters":
        for name, values in (("kinds", self.kinds), ("domains", self.domains)):
            if len({*values}) != len(values):
                raise UserError(name, values, "names that differ")
        if "all" in self.kinds and len(self.kinds) > 1:
            raise UserError("kinds", self.kinds, "all alone: it holds the others", "all")
        if {"norm", "batchnorm"} <= {*self.kinds}:
            raise UserError("kinds", self.kinds, "norm or batchnorm: both own the norms' parameters", "batchnorm")
        for name in self.domains:
            if not name.isidentifier():
                raise UserError("domains", name, "names of letters, digits and _")
        return self


def attach(net: nn.Module, settings: Adapters) -> Mixture:
    """Give ``net``, in place, parameters per domain; all domains start equal to it.

    Raises:
        UserError: If the net has nothing of a kind, or two kinds want the same parameter.
    """
    mixture = Mixture(settings.domains)
    mixture.repeating = [module for module in net.modules() if hasattr(module, "grad_checkpointing")]
    mixture.refuse_repeats()
    for kind in settings.kinds:
        if not ADAPTERS[kind].attach(net, mixture, settings):
            fitting = "norm | batchnorm | patch_embed | head | bias | all"
            raise UserError("model.adapters", kind, f"kinds that {type(net).__name__} has parts for", fitting)
    # The prompt reads the projections itself: it knows no update of theirs that differs within a batch
    mixture.whole |= "prompt" in settings.kinds and bool({"lora", "bias"} & {*settings.kinds})
    return mixture


__all__ = ["ADAPTERS", "Adapters", "Kind", "Mix", "Mixture", "attach", "settle"]
