"""Whether the images of one batch may differ in their domains: found out once, by trying it on a copy."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .mixture import OneMixOnly
from .stacks import adapter_names

_TOLERANCE = 1e-3
"""Of the largest logit: far above rounding, far below what another domain does."""
_ASLEEP = 1e-3


def settle(model: Any, x: Tensor) -> None:
    """Send a batch of several domains through a copy whose domains differ, and each domain by itself.

    Layers that adapters know take mixes per image or part. A net may also read an adapted weight in code of its own,
    or hold something else than images on the first axis. Where the two ways differ, ``mixture.whole`` makes every
    later forward send the parts through one after the other: slower, and right.

    Args:
        model: A classifier with domains.
        x: (B, C, H, W) images it takes.
    """
    mixture = model.mixture
    mixture.settled = True
    if mixture.whole or x.is_meta:
        return
    probe = copy.deepcopy(model).eval()
    names = list(mixture.domains)
    images = x.detach()[torch.arange(2 * len(names), device=x.device) % len(x)]
    if x.dtype in (torch.bfloat16, torch.float16):  # whose rounding is above the tolerance
        probe, images = probe.float(), images.float()
    _move_apart(probe)
    generators = torch.random.fork_rng(devices=[x.device] if x.is_cuda else [])
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False), generators:
        apart = torch.cat([probe(part, mix=name) for name, part in zip(names, images.chunk(len(names)), strict=True)])
        try:
            together = probe(images, mix=names)
        except OneMixOnly:
            mixture.whole = True
            return
    scale = float(apart.abs().nan_to_num().max())
    mixture.whole = not torch.allclose(together, apart, rtol=0, atol=_TOLERANCE * scale, equal_nan=True)


@torch.no_grad()
def wake(model: nn.Module) -> None:
    """Move parameters that are next to zero, in place: a zero head or layer scale would hide what lies before it.

    Those that exist per domain stay.
    """
    names = adapter_names(model)
    for name, parameter in model.named_parameters():
        if name not in names and parameter.numel() and parameter.abs().max() < _ASLEEP:
            parameter += 0.1 * _wave(parameter)


def _move_apart(model: nn.Module) -> None:
    wake(model)
    names = adapter_names(model)
    for name, tensor in model.state_dict().items():
        if name in names and tensor.is_floating_point() and "variances" not in name:
            for domain in range(1, len(tensor)):
                tensor[domain] += domain * (0.1 + 0.3 * tensor[domain].abs().mean()) * _wave(tensor[domain])


def _wave(like: Tensor) -> Tensor:
    return torch.arange(like.numel(), device=like.device, dtype=like.dtype).cos().view_as(like)
