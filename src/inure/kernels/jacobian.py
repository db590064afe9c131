"""The Jacobian of the logits with respect to the weights, image by image, of a net that stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..libraries import Tensor, nn, torch
from ..machine.eager import eagerly
from ..models.modes import BatchNormMode, attack_mode
from ..settings.errors import UserError
from ..types import Images


class Jacobian:
    """df_c(x_i) / dtheta, for rows of images and some of the parameters at a time. Use it inside ``looking_at``.

    Args:
        model: Images to logits, unwrapped.
        x: (N, C, H, W) in [0, 1].
        classes: Which logits; None is all.
        batch_statistics: Whether BatchNorm sees all images at once; N times as expensive.
        dtype: In which parameters, buffers and images are copied for it.
        chunk: Images (rows of the Jacobian with ``batch_statistics``) in one vectorised backward.
        tick: Called after each.
    """

    def __init__(
        self, model: nn.Module, x: Images, classes: Sequence[int] | None, *, batch_statistics: bool,
        dtype: torch.dtype, chunk: int, tick: Callable[[], Any] | None = None,
    ) -> None:  # fmt: skip
        self._model, self._x = model, x.detach().to(dtype)
        self._classes = None if classes is None else torch.tensor(list(classes), device=x.device)
        self._batch_statistics, self.chunk, self._tick = batch_statistics, chunk, tick
        self.parameters = {name: value.detach().to(dtype) for name, value in model.named_parameters()}
        buffers = dict(model.named_buffers())
        self._buffers = {name: b.to(dtype) if b.is_floating_point() else b for name, b in buffers.items()}
        with torch.no_grad():
            self.num_classes = self._logits({}, self._x[:2]).shape[1]

    def __len__(self) -> int:
        return len(self._x)

    def blocks(self, names: Sequence[str], rows: slice) -> list[Tensor]:
        """For each parameter tensor of p numbers its (n, classes, p) of the images ``rows``."""
        chosen = {name: self.parameters[name] for name in names}
        places = range(len(self))[rows]
        kept: list[Tensor] = []
        for start in places[:: self.chunk]:
            piece = slice(start, min(start + self.chunk, places[-1] + 1))
            found = self._of_batch(chosen, piece) if self._batch_statistics else self._of_each(chosen, piece)
            if not kept:
                kept = [found[name].new_empty(len(places), *found[name].shape[1:]).flatten(2) for name in names]
            for name, whole in zip(names, kept, strict=True):
                whole[start - places[0] : piece.stop - places[0]] = found[name].flatten(2)
            if self._tick is not None:
                self._tick()
        return kept

    def _of_each(self, chosen: dict[str, Tensor], rows: slice) -> Any:
        one = torch.func.jacrev(lambda values, image: self._logits(values, image[None])[0])
        return torch.func.vmap(one, in_dims=(None, 0))(chosen, self._x[rows])

    def _of_batch(self, chosen: dict[str, Tensor], rows: slice) -> Any:
        return torch.func.jacrev(lambda values: self._logits(values, self._x)[rows])(chosen)

    def _logits(self, changed: dict[str, Tensor], x: Images) -> Tensor:
        state = {**self.parameters, **self._buffers, **changed}
        logits = torch.func.functional_call(self._model, state, (x,))
        return logits if self._classes is None else logits[:, self._classes]


@contextmanager
def looking_at(model: nn.Module, bn_mode: BatchNormMode) -> Iterator[nn.Module]:
    """The net without its wrappers, eager, in its own precision, in eval mode but for BatchNorm if asked.

    Afterwards every module has its own mode back.

    Raises:
        UserError: If BatchNorm has no running statistics to use.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    net, batch_norm = unwrapped(model), nn.modules.batchnorm._BatchNorm
    if bn_mode == "running" and any(isinstance(m, batch_norm) and not m.track_running_stats for m in net.modules()):
        raise UserError("bn_mode", "running", "batch: this net keeps no running statistics", "bn_mode=batch")
    device = next(net.parameters()).device.type
    with (
        attack_mode(net, "train_frozen_stats" if bn_mode == "batch" else "eval"),
        eagerly(),
        torch.autocast(device, enabled=False),
        sdpa_kernel(SDPBackend.MATH),  # the fused kernels know no vmap
    ):
        for module in net.modules():
            if not isinstance(module, batch_norm):
                module.training = False
        yield net


def unwrapped(model: nn.Module) -> nn.Module:
    """The net inside ``torch.compile``, Fabric, DataParallel and DistributedDataParallel."""
    for name in ("_orig_mod", "_original_module"):
        if isinstance(inner := model.__dict__.get("_modules", {}).get(name), nn.Module):
            return unwrapped(inner)
    if isinstance(model, nn.parallel.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    return model
