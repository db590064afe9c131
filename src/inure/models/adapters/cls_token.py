"""The class token per domain: the adapter of Rebuffi et al. (2022, arXiv:2210.04886), 768 numbers of a ViT-B."""

from typing import Any

from torch import nn

from .mixture import Mixture
from .stacks import stack_parameter


def attach(net: nn.Module, mixture: Mixture, settings: Any) -> int:
    """Every parameter called ``cls_token``."""
    return stack_named(net, mixture, ("cls_token",))


def stack_named(net: nn.Module, mixture: Mixture, names: tuple[str, ...]) -> int:
    """Stack parameters that are added to, or put before, the tokens; how many there were."""
    places = [
        (place, m, name)
        for place, m in net.named_modules()
        for name in names
        if isinstance(getattr(m, name, None), nn.Parameter)
    ]
    for place, module, name in places:
        stack_parameter(module, name, mixture, f"{place}.{name}".lstrip("."), token=True)
    return len(places)
