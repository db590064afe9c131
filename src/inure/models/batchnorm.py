"""How BatchNorm estimates the statistics that it uses in eval mode: switches for ablations, one default for the rest.

The text on adversarial training through tangent kernels (Li et al., arXiv:2312.02236) holds that unbiased estimators
matter; what it varies exactly we could not read. These are the four things that it can mean; the fourth is the mode of
the net while it is attacked (``method.attack_mode``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, StrictBool, model_validator

from ..libraries import Tensor, nn, torch
from ..settings.config import Settings, Whole
from ..settings.errors import UserError

if TYPE_CHECKING:
    from torch.nn.modules.batchnorm import _BatchNorm

Source = Literal["training", "clean"]


class BatchNorm(Settings):
    """Settings of all BatchNorm layers of a net."""

    running: StrictBool = True
    """False: no running statistics; a batch is normalised by its own in eval mode too, in attacks and in evaluation.
    Predictions then depend on the batch."""
    unbiased: StrictBool = True
    """The running variance has Bessel's correction n / (n - 1), as torch has it; the variance that normalises in train
    mode never has. False: neither has it."""
    reestimate: Source | None = None
    """Before weights are validated and written, a copy of the net gets its running statistics anew, as the plain mean
    over ``batches`` forwards: ``training`` of the images that training steps send through, attacks by the final net
    included; ``clean`` of the clean images. None: the moving averages of training."""
    batches: Annotated[Whole, Field(ge=1)] = 32

    @model_validator(mode="after")
    def _of_running_statistics(self) -> BatchNorm:
        for name, off in {"unbiased": True, "reestimate": None}.items():
            if not self.running and getattr(self, name) != off:
                allowed = f"{'true' if off else 'null'} with running=false: there is nothing to estimate"
                raise UserError(name, getattr(self, name), allowed)
        return self

    def apply(self, net: nn.Module, name: str) -> None:
        """Change the layers of ``net`` in place, before it is adapted, compiled or given weights.

        Raises:
            UserError: If the net has no BatchNorm.
        """
        layers = batch_norms(net)
        if not layers:
            given = ", ".join(f"{key}={value}" for key, value in self.model_dump(exclude_defaults=True).items())
            raise UserError("model.batchnorm", given or "settings", f"null: {name} has no BatchNorm")
        for layer in layers:
            if not self.running:
                _forget(layer)
            if not self.unbiased:
                layer.__class__ = type(f"Biased{type(layer).__name__}", (_BiasedVariance, type(layer)), {})


def batch_norms(net: nn.Module) -> list[_BatchNorm]:
    """Its layers that keep running statistics."""
    return [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]


class _BiasedVariance:
    """A BatchNorm whose running variance takes in sum (x - mean)^2 / n."""

    def forward(self, x: Tensor) -> Tensor:
        """As the layer; afterwards the share n / (n - 1) is taken back from what the batch added."""
        layer: Any = self
        if not (layer.training and layer.track_running_stats):
            return super().forward(x)  # type: ignore[misc]
        variance = layer.running_var
        layer._buffers["running_var"] = corrected = variance.clone()  # the backward wants it as the layer left it
        try:
            out = super().forward(x)  # type: ignore[misc]
        finally:
            layer._buffers["running_var"] = variance
        momentum = 1 / layer.num_batches_tracked if layer.momentum is None else layer.momentum
        kept = variance * (1 - momentum)
        count = x.numel() // x.shape[1]
        with torch.no_grad():
            variance.copy_(kept + (corrected - kept) * (count - 1) / count)
        return out


def _forget(layer: _BatchNorm) -> None:
    layer.track_running_stats = False
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        setattr(layer, name, None)
