"""The empirical neural tangent kernel (Jacot et al., 2018, arXiv:1806.07572): inner products of weight gradients.

    K[i, c; j, d] = <df_c(x_i) / dtheta, df_d(x_j) / dtheta>

The Jacobian of all weights is never held: one group of parameter tensors at a time enters the sum, and where even one
tensor is too large for the budget, images go in tiles, of whose pairs only the upper triangle is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ..libraries import Tensor, nn, torch
from ..settings.errors import UserError
from ..types import Images
from .jacobian import BatchNormMode, Jacobian, looking_at, unwrapped

Reduction = Callable[[Tensor, Tensor], Tensor]
"""(n, C, p) and (m, C, p) to (..., n, m), linear in the sum over p."""
BUDGET = 2**30
"""Bytes of Jacobian held at a time."""


def per_class(a: Tensor, b: Tensor) -> Tensor:
    """K[i, c; j, c] as (C, n, m)."""
    return torch.bmm(a.transpose(0, 1), b.permute(1, 2, 0))


def traced(a: Tensor, b: Tensor) -> Tensor:
    """The mean over c of K[i, c; j, c], (n, m)."""
    return a.flatten(1) @ b.flatten(1).T / a.shape[1]


def whole(a: Tensor, b: Tensor) -> Tensor:
    """K[i, c; j, d] as (C, C, n, m)."""
    products = a.flatten(0, 1) @ b.flatten(0, 1).T
    return products.view(len(a), a.shape[1], len(b), b.shape[1]).permute(1, 3, 0, 2)


def kernel(
    model: nn.Module,
    x: Images,
    reduction: Reduction = per_class,
    *,
    parameters: Sequence[str] | None = None,
    classes: Sequence[int] | None = None,
    bn_mode: BatchNormMode = "running",
    dtype: torch.dtype | None = None,
    budget: int = BUDGET,
    tile: int | None = None,
    chunk: int = 16,
    show: Callable[[int, int], Any] | None = None,
) -> Tensor:
    """The kernel of ``model`` at N images: ``per_class`` (C, N, N), ``traced`` (N, N) or ``whole`` (C, C, N, N).

    The net may be compiled or wrapped and in any mode; it is looked at in eval mode, its modes, gradients, buffers
    and ``requires_grad`` are as before. A net with domains shows its first; fold it (``inure.fold``) for another.

    Args:
        model: Images to logits.
        x: (N, C, H, W) in [0, 1], on the net's device.
        reduction: Which part of the (N C) x (N C) matrix.
        parameters: Names of parameters; None is all, frozen ones too. Kernels of a partition sum to the whole.
        classes: Which logits; None is all.
        bn_mode: Which statistics BatchNorm uses.
        dtype: float32 (where None) or float64.
        budget: Bytes of Jacobian to hold at a time; one tensor and two images are held whatever it says.
        tile: Images at a time; None is what the budget allows.
        chunk: Images in one vectorised backward. What that holds is not in the budget.
        show: Called with the backwards done and all of them.

    Returns:
        On the net's device, symmetric bit for bit.

    Raises:
        UserError: For an unknown parameter name, or running statistics of a net that has none.
    """
    done = goal = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if show is not None:
            show(done, goal)

    with looking_at(model, bn_mode) as net:
        batch = bn_mode == "batch"
        jacobian = Jacobian(
            net, x, classes, batch_statistics=batch, dtype=dtype or torch.float32, chunk=chunk, tick=tick
        )
        parts = _plan(jacobian, _chosen(jacobian, parameters), budget, tile)
        goal = sum(_backwards(jacobian, part) for part in parts)
        total = None
        for part in parts:
            for rows, columns, found in _tiles(jacobian, part, reduction):
                if total is None:
                    total = found.new_zeros(*found.shape[:-2], len(x), len(x))
                if rows == columns:
                    total[..., rows, columns] += (found + _mirrored(found)) / 2
                else:
                    total[..., rows, columns] += found
                    total[..., columns, rows] += _mirrored(found)
    assert total is not None
    return total


def trace_kernel(model: nn.Module, x: Images, **options: Any) -> Tensor:
    """(N, N), the mean over the logits of their kernels; options as of ``kernel``."""
    return kernel(model, x, traced, **options)


def layer_kernels(model: nn.Module, x: Images, reduction: Reduction = traced, **options: Any) -> dict[str, Tensor]:
    """The kernel of each module that holds parameters, by its name; they sum to the whole."""
    layers: dict[str, list[str]] = {}
    for name, _ in unwrapped(model).named_parameters():
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    return {layer: kernel(model, x, reduction, parameters=own, **options) for layer, own in layers.items()}


class _Part(NamedTuple):
    names: list[str]
    tile: int


def _chosen(jacobian: Jacobian, names: Sequence[str] | None) -> list[str]:
    for name in names or ():
        if name not in jacobian.parameters:
            raise UserError("parameters", name, "names of the net's parameters")
    chosen = list(jacobian.parameters if names is None else names)
    if not chosen:
        raise UserError("parameters", "none", "at least one parameter")
    return chosen


def _plan(jacobian: Jacobian, names: Sequence[str], budget: int, tile: int | None) -> list[_Part]:
    """Groups of tensors whose Jacobian at all images fits; a tensor that does not fit alone, in tiles of images."""
    count, parts, held = len(jacobian), [], 0
    for name in names:
        value = jacobian.parameters[name]
        one_image = jacobian.num_classes * value.numel() * value.element_size()
        size = one_image * count
        if parts and parts[-1].tile == count and held + size <= budget:
            parts[-1].names.append(name)
            held += size
            continue
        fitting = count if size <= budget else max(1, budget // (2 * one_image))
        parts.append(_Part([name], min(fitting, count)))
        held = size
    return parts if tile is None else [_Part(part.names, min(tile, part.tile)) for part in parts]


def _tiles(jacobian: Jacobian, part: _Part, reduction: Reduction) -> Iterator[tuple[slice, slice, Tensor]]:
    """(rows, columns, what ``part`` adds there) for the tiles on and above the diagonal."""
    first, left = -1, []
    for start, other in _pairs(len(jacobian), part.tile):
        rows, columns = slice(start, start + part.tile), slice(other, other + part.tile)
        if start != first:
            left.clear()  # before the next is made, or three blocks were held
            first, left = start, jacobian.blocks(part.names, rows)
        right = left if other == start else jacobian.blocks(part.names, columns)
        found = sum(reduction(a, b) for a, b in zip(left, right, strict=True))
        assert isinstance(found, Tensor)
        yield rows, columns, found


def _backwards(jacobian: Jacobian, part: _Part) -> int:
    """How many ``_tiles`` makes."""
    sizes = (min(part.tile, len(jacobian) - other) for _, other in _pairs(len(jacobian), part.tile))
    return sum(-(-size // jacobian.chunk) for size in sizes)


def _pairs(count: int, tile: int) -> list[tuple[int, int]]:
    """First rows of the tiles on and above the diagonal."""
    starts = range(0, count, tile)
    return [(start, other) for start in starts for other in starts if other >= start]


def _mirrored(block: Tensor) -> Tensor:
    block = block.transpose(-1, -2)
    return block.transpose(0, 1) if block.ndim == 4 else block
