"""Layers whose adapted parameters may differ within a batch. The layer's class is exchanged for a subclass of its own.

A norm normalises once and scales by each image's own values. A linear layer or a convolution is linear in its
parameters, so that mixing the outputs of the K domains is mixing their parameters; parts of a batch that share a
domain are sent through together.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .mixture import Choice, Mixture, OneMixOnly
from .stacks import is_stacked, stack_of

NORMS = (nn.LayerNorm, nn.GroupNorm, _BatchNorm)
LINEAR = (nn.Linear, nn.Conv2d)
_AFTER, _NOTHING = ("drop", "act"), nn.Identity()
"""What timm's norms do after the scale, in this order."""


class Mixed:
    """What the exchanged classes share; ``mixture`` is set by ``exchange``."""

    mixture: Mixture

    def only(self, domain: int) -> Any:
        """A context in which the whole batch is of one domain."""
        return self.mixture.using(Choice(domain=domain), self.mixture.batch)

    def part_by_part(self, x: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
        """``forward`` of each part of the batch, in its domain."""
        parts, outputs = self.mixture.choice.parts or (), []
        if len(x) % self.mixture.batch:
            raise OneMixOnly
        for domain, piece in zip(parts, x.chunk(len(parts)), strict=True):
            with self.only(domain):
                outputs.append(forward(piece))
        return torch.cat(outputs)


class MixedNorm(Mixed):
    """A norm with affine parameters per domain, and one set of statistics.

    timm's norms with an activation inside have it applied after each image's own scale and shift.
    """

    def forward(self, x: Tensor) -> Tensor:
        """As the norm, with each image's own scale and shift."""
        if self.mixture.folded:
            return super().forward(x)  # type: ignore[misc]
        module: Any = self
        per_domain = [parametrizations[0] for parametrizations in module.parametrizations.values()]
        after = {name: module._modules[name] for name in _AFTER if name in module._modules}
        for parametrization in per_domain:
            parametrization.mute = True
        module._modules |= dict.fromkeys(after, _NOTHING)
        try:
            normalised = super().forward(x)  # type: ignore[misc]
        finally:
            for parametrization in per_domain:
                parametrization.mute = False
            module._modules |= after
        scale, shift = (_values(module, name, x) for name in ("weight", "bias"))
        if scale is not None:
            # The norm keeps its input, not its output, for the backward: where the scale wants no gradient nothing
            # else needs the output, and new memory would cost more than the product
            normalised = normalised * scale if scale.requires_grad else normalised.mul_(scale)
        normalised = normalised if shift is None else normalised.add_(shift)
        for follower in after.values():
            normalised = follower(normalised)
        return normalised


class MixedLinear(Mixed):
    """A linear layer or convolution with weights, biases or both per domain."""

    def forward(self, x: Tensor) -> Tensor:
        """As the layer, with each image's own parameters."""
        if self.mixture.folded:
            return super().forward(x)  # type: ignore[misc]
        forward = super().forward  # type: ignore[misc]
        if self.mixture.choice.parts is not None:
            return self.part_by_part(x, forward)
        outputs = []
        for domain in range(len(self.mixture.domains)):
            with self.only(domain):
                outputs.append(forward(x))
        return self.mixture.blend(outputs)


def exchange(module: nn.Module, mixin: type[Mixed], mixture: Mixture) -> None:
    """Make ``module`` an instance of a subclass of its own class that knows mixes."""
    cls = type(module)
    if issubclass(cls, mixin):
        return
    if issubclass(cls, Mixed):  # adapted in two ways: each image's own parameters go around the layer
        mixture.whole = True
        return
    module.__class__ = type(f"Mixed{cls.__name__}", (mixin, cls), {"__module__": __name__})
    module.__dict__["mixture"] = mixture


def give_back(module: nn.Module) -> None:
    """Undo ``exchange``, once nothing of the module is stacked any more."""
    if isinstance(module, Mixed):
        module.__class__ = type(module).__bases__[1]
        del module.__dict__["mixture"]


def _values(module: nn.Module, name: str, x: Tensor) -> Tensor | None:
    """(B, ...) shaped so that it multiplies ``x``; None if the norm has no such parameter."""
    if not is_stacked(module, name):
        return None
    mixture: Mixture = module.mixture  # type: ignore[assignment]
    values = mixture.unfold(stack_of(module, name), len(x)).to(x.dtype)
    if isinstance(module, nn.LayerNorm) and "2d" not in type(module).__name__:
        return values.view(len(x), *[1] * (x.ndim - values.ndim), *values.shape[1:])
    return values.view(len(x), -1, *[1] * (x.ndim - 2))
