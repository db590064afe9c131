"""Which parameters exist once per domain: the settings of all adapters."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ...settings.config import Settings, Whole
from ...settings.errors import UserError

ADAPTERS = {
    "cls_token": "cls_token",
    "norm": "norm",
    "batchnorm": "batchnorm",
    "position": "position",
    "patch_embed": "patch_embed",
    "head": "head",
    "bias": "bias",
    "prompt": "prompt",
    "bottleneck": "bottleneck",
    "lora": "lora",
    "all": "everything",
}
"""The file of each kind in this folder."""
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
