"""Every parameter and statistic per domain: as many networks in one, the upper baseline of all adapters."""

from typing import Any

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from . import batchnorm
from .mixture import Mixture
from .stacks import stack_parameter


def attach(net: nn.Module, mixture: Mixture, settings: Any) -> int:
    """All parameters. Parts of a batch go through the whole net one after the other."""
    mixture.whole = True
    count = batchnorm.attach(net, mixture, settings)
    stacked = [(place, m) for place, m in net.named_modules() if not isinstance(m, ParametrizationList)]
    for place, module in stacked:
        for name in [n for n, _ in module.named_parameters(recurse=False)]:
            stack_parameter(module, name, mixture, f"{place}.{name}")
            count += 1
    return count
