"""Parameters that exist once per domain: a stack (K, ...) in the place of one parameter, seen through the mix in use.

Built on ``torch.nn.utils.parametrize``: the net keeps its modules and its code, and what it reads under the
parameter's name is folded from the stack. Where images have mixes of their own, the reader gets one value per image.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .mixture import Mixture, OneMixOnly


class Stacks(nn.Module):
    """A module whose own parameters are all stacks: what an adapter adds to a net."""

    mixture: Mixture


class PerDomain(nn.Module):
    """The parametrization that turns a stack into what the net reads.

    Args:
        mixture: The choice in use.
        place: The parameter's name, for messages.
        token: Whether the parameter is (1, ...) and added to, or put before, what (B, ...) images make of it.
        neutral: For affine parameters of norms: the value at which they do nothing, read while ``mute`` is on.
    """

    def __init__(self, mixture: Mixture, place: str, *, token: bool = False, neutral: float = 0.0) -> None:
        super().__init__()
        self.mixture, self.place, self.token, self.neutral = mixture, place, token, neutral
        self.mute = False

    def forward(self, stack: Tensor) -> Tensor:
        """The parameter under the mix in use."""
        if self.mute:
            return torch.full_like(stack[0], self.neutral)
        if self.mixture.folded:
            return self.mixture.fold(stack)
        if self.token:
            return self.mixture.unfold(stack.squeeze(1))
        raise OneMixOnly

    def right_inverse(self, parameter: Tensor) -> Tensor:
        """K equal copies."""
        copies = parameter.detach()[None].expand(len(self.mixture.domains), *parameter.shape)
        return copies.clone()


def stack_parameter(
    module: Any, name: str, mixture: Mixture, place: str, *, token: bool = False, neutral: float = 0.0
) -> None:
    """Give ``module.name`` a value per domain, all equal to what it is now."""
    parameter = getattr(module, name)
    if token and (parameter.ndim < 2 or parameter.shape[0] != 1):
        token, mixture.whole = False, True
    trainable = parameter.requires_grad
    per_domain = PerDomain(mixture, place, token=token, neutral=neutral)
    parametrize.register_parametrization(module, name, per_domain, unsafe=True)
    stack_of(module, name).requires_grad_(trainable)


def is_stacked(module: Any, name: str) -> bool:
    """Whether ``module.name`` exists once per domain."""
    return parametrize.is_parametrized(module, name) and isinstance(_parametrization(module, name), PerDomain)


def stack_of(module: Any, name: str) -> nn.Parameter:
    """The stack behind ``module.name``."""
    return _list(module, name).original


def unstack(module: Any, name: str, value: Tensor) -> None:
    """Put ``value`` back as a plain parameter."""
    trainable = stack_of(module, name).requires_grad
    cls = type(module)
    # A deep copy shares its class, from which torch is about to remove the property, with the net it was copied from
    module.__class__ = type(cls.__name__, cls.__bases__, dict(cls.__dict__))
    parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    setattr(module, name, nn.Parameter(value.detach().clone(), requires_grad=trainable))


def stacked_places(net: nn.Module) -> list[tuple[Any, str]]:
    """(module, name) of every parameter of ``net`` that exists once per domain in the place of one of its own."""
    found = []
    module: Any
    for module in net.modules():
        if parametrize.is_parametrized(module):
            found += [(module, name) for name in module.parametrizations if is_stacked(module, name)]
    return found


def adapter_names(model: nn.Module) -> set[str]:
    """Names of the state that exists once per domain; its first axis is the domain."""
    names = set()
    for place, module in model.named_modules():
        prefix = f"{place}." if place else ""
        if isinstance(module, parametrize.ParametrizationList) and isinstance(module[0], PerDomain):
            names.add(f"{prefix}original")
        elif isinstance(module, Stacks):
            names |= {prefix + name for name, _ in module.named_parameters(recurse=False)}
        if "means" in dict(module.named_buffers(recurse=False)):
            names |= {f"{prefix}means", f"{prefix}variances", f"{prefix}batches"}
    return names


def plain_name(name: str) -> str:
    """What one of ``adapter_names`` is called in the net without domains; layers that adapters add keep theirs."""
    place, _, last = name.rpartition(".")
    if last == "original":
        return place.replace("parametrizations.", "")
    statistics = {"means": "running_mean", "variances": "running_var", "batches": "num_batches_tracked"}
    return f"{place}.{statistics.get(last, last)}"


def _parametrization(module: Any, name: str) -> Any:
    return _list(module, name)[0]


def _list(module: Any, name: str) -> Any:
    return module.parametrizations[name]
