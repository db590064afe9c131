"""Dual BatchNorm (AdvProp, Xie et al., 2020, arXiv:1911.09665): statistics and affine parameters once per domain."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...settings.errors import UserError
from .layers import Mixed, exchange
from .mixture import Mixture, weighted
from .stacks import stack_parameter

_STATISTICS = {"running_mean": "means", "running_var": "variances", "num_batches_tracked": "batches"}


def attach(net: nn.Module, mixture: Mixture, settings: Any) -> int:
    """Every BatchNorm of the net: scale, shift and running statistics."""
    norms = [(place, m) for place, m in net.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    mixture.images_apart = bool(norms)
    for place, norm in norms:
        exchange(norm, MixedBatchNorm, mixture)
        for name, stacked in _STATISTICS.items():
            value = getattr(norm, name)
            norm.register_buffer(stacked, torch.stack([value.clone() for _ in mixture.domains]))
            setattr(norm, name, None)
        for name in ("weight", "bias"):
            if getattr(norm, name) is not None:
                stack_parameter(norm, name, mixture, f"{place}.{name}")
    return len(norms)


class MixedBatchNorm(Mixed):
    """BatchNorm with statistics per domain.

    Parts of a batch are normalised by themselves. Under weights the mean is the weighted mean and the variance that
    of the mixture, sum w (var + mean^2) - mean^2: an approximation, and only in eval mode. Beyond [0, 1] that sum
    may vanish; it is kept above the domains' least variance, which no mixture within [0, 1] is under. A domain alone
    is exact.
    """

    means: Tensor
    """(D, C) for D domains."""
    variances: Tensor
    batches: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """As BatchNorm in one domain; or part by part. Each image by itself comes as weights."""
        choice = self.mixture.choice
        if choice.parts is not None:
            return self.part_by_part(x, self.forward)
        if choice.domain is not None:
            with self._statistics({name: getattr(self, s)[choice.domain] for name, s in _STATISTICS.items()}):
                return super().forward(x)  # type: ignore[misc]
        module: Any = self
        if module.training:
            raise UserError("mix", "weights in train mode", "a domain, or a domain for each part", "eval mode")
        mean, variance = self.mixed_statistics(choice.weights)
        if mean.requires_grad:  # of the weights; batch_norm has none to its statistics, and is left the scale to do
            shape = (1, -1, *[1] * (x.ndim - 2))
            x = (x - mean.view(shape)) * (variance + module.eps).rsqrt().view(shape)
            mean, variance = torch.zeros_like(mean), torch.full_like(variance, 1 - module.eps)
        with self._statistics({"running_mean": mean, "running_var": variance}):
            return super().forward(x)  # type: ignore[misc]

    def mixed_statistics(self, weights: Any) -> tuple[Tensor, Tensor]:
        """Mean and variance under ``weights`` (D,)."""
        mean = weighted(self.means, weights)
        second = weighted(self.variances + self.means**2, weights)
        return mean, torch.maximum(second - mean**2, self.variances.amin(0))

    def reset_running_stats(self) -> None:
        """As BatchNorm's, for all domains."""
        self.means.zero_()
        self.variances.fill_(1)
        self.batches.zero_()

    @contextmanager
    def _statistics(self, values: dict[str, Tensor]) -> Iterator[None]:
        module: Any = self
        try:
            for name, value in values.items():
                module._buffers[name] = value
            yield
        finally:
            for name in values:
                module._buffers[name] = None


def put_back(norm: nn.Module, mixture: Mixture) -> None:
    """Plain statistics, those of the choice in use."""
    if not isinstance(norm, MixedBatchNorm):
        return
    domain, weights = mixture.choice.domain, mixture.choice.weights
    if domain is not None:
        mean, variance = norm.means[domain], norm.variances[domain]
    else:
        mean, variance = norm.mixed_statistics(weights)
    batches = norm.batches[domain or 0]
    module: Any = norm
    for name, value in {"running_mean": mean, "running_var": variance, "num_batches_tracked": batches}.items():
        delattr(module, _STATISTICS[name])
        module._buffers[name] = value.detach().clone()
