"""The cosine classifier of RoBal (Wu et al., 2021, arXiv:2104.02703): logits that know angles alone."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...settings.errors import UserError
from .settings import CosineHead, LinearHead


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
