"""Scale and shift of every norm per domain, one set of statistics: Dual LayerNorm, GroupNorm, DualParams BatchNorm."""

from typing import Any

from torch import nn

from .layers import NORMS, MixedNorm, exchange
from .mixture import Mixture
from .stacks import stack_parameter

_NEUTRAL = {"weight": 1.0, "bias": 0.0}


def attach(net: nn.Module, mixture: Mixture, settings: Any) -> int:
    """Every LayerNorm, GroupNorm and BatchNorm (Rebuffi et al., 2022, section 3.2)."""
    norms = [(place, m) for place, m in net.named_modules() if isinstance(m, NORMS) and _affine(m)]
    for place, norm in norms:
        exchange(norm, MixedNorm, mixture)
        for name in _affine(norm):
            stack_parameter(norm, name, mixture, f"{place}.{name}", neutral=_NEUTRAL[name])
    return len(norms)


def _affine(norm: nn.Module) -> list[str]:
    return [name for name in _NEUTRAL if isinstance(getattr(norm, name, None), nn.Parameter)]
