"""The cosine classifier of RoBal (Wu et al., 2021, arXiv:2104.02703): logits that know angles alone."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ...settings.config import Real, Settings
from ...settings.errors import UserError


class LinearHead(Settings):
    """The net's own last layer."""

    kind: Literal["linear"] = "linear"


class CosineHead(Settings):
    """scale * <w / (|w| + gamma), z / |z|>, without a bias: with long tails |w| grows with the class, angles do not."""

    kind: Literal["cosine"] = "cosine"
    gamma: Annotated[Real, Field(ge=0)] = 1 / 32
    """Shrinks the logits of short weights; RoBal: 1/32, in one setting 1/16. 0: cosines."""
    scale: Annotated[Real, Field(gt=0)] = 1.0
    """1 as in RoBal and LDAM, whose criteria bring a scale of their own; about 10 to 30 with plain cross-entropy.
    Attacks see it too: compare nets at one scale, or with losses that do not (DLR, margin)."""


class CosineLinear(nn.Module):
    """The layer: features (B, D) to (B, K). Its weights start as those of ``nn.Linear``; a feature of 0 gives 0."""

    def __init__(self, features: int, classes: int, head: CosineHead, device: Any = None) -> None:
        super().__init__()
        self.in_features, self.out_features, self.gamma, self.scale = features, classes, head.gamma, head.scale
        self.weight = nn.Parameter(torch.empty(classes, features, device=device))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., K)."""
        weight = self.weight / (self.weight.norm(dim=1, keepdim=True) + self.gamma)
        return self.scale * F.linear(F.normalize(x, dim=-1), weight)

    def extra_repr(self) -> str:
        """As ``nn.Linear`` shows itself."""
        return f"{self.in_features}, {self.out_features}, gamma={self.gamma:g}, scale={self.scale:g}"


def put_head(net: nn.Module, head: LinearHead | CosineHead, name: str) -> None:
    """Exchange the last linear layer of ``net``, the one that ``get_classifier()`` names, in place.

    Args:
        net: One of ours or of timm's.
        head: What to put there; ``LinearHead`` leaves the net as it is.
        name: Of the net, for the message.

    Raises:
        UserError: If the net has no such layer, or several.
    """
    if isinstance(head, LinearHead):
        return
    last: Any = getattr(net, "get_classifier", lambda: None)()
    places = [place for place, module in net.named_modules() if module is last and isinstance(module, nn.Linear)]
    if len(places) != 1:
        allowed = f"linear: {name} does not end in one linear layer (get_classifier)"
        raise UserError("model.head.kind", head.kind, allowed, "another model.name")
    parent, _, leaf = places[0].rpartition(".")
    layer = CosineLinear(last.in_features, last.out_features, head, last.weight.device)
    setattr(net.get_submodule(parent), leaf, layer)
