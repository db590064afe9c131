"""Weights of a ViT for another patch or image size: kernels by block sums, position embeddings by interpolation.

The way of Shao et al. (2021, arXiv:2103.15670) and Mo et al. (2022, arXiv:2210.07540): a net for 16 x 16 patches
of 224 pixels sees 4 x 4 patches of 32 pixels as if they had been enlarged.
"""

import warnings
from collections.abc import Mapping
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..settings.errors import UserError
from .conv_stem import ConvStem

_EMBED, _KERNEL, _POSITIONS = "patch_embed.", "patch_embed.proj.weight", "pos_embed"
_TABLE = ".relative_position_bias_table"


def resize_kernel(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """The kernel of a patch embedding for patches of another size.

    Smaller patches get the sum over blocks: the same as enlarging the image by nearest-neighbour upsampling and
    taking the kernel as it was. Larger ones get every weight repeated and divided by the number of copies: the same
    as averaging the image's blocks first.

    Args:
        kernel: (O, I, P, Q), of any floating type.
        size: Height and width of a patch, in pixels; each divides that of ``kernel``, or is a multiple of it.

    Returns:
        (O, I, *size), in the type of ``kernel``.

    Raises:
        UserError: For other sizes.

    Note:
        timm resizes kernels by the pseudoinverse of its image resizing (FlexiViT, Beyer et al., 2022,
        arXiv:2212.08013), which is neither. For sizes that do not divide, the code of Mo et al. takes the nearest
        weights without scaling them, which computes nothing of what the kernel did; here they are refused.
    """
    resized = kernel.to(torch.promote_types(kernel.dtype, torch.float32))
    for axis, new in zip((2, 3), size, strict=True):
        old = kernel.shape[axis]
        if old % new == 0:
            resized = resized.unflatten(axis, (new, old // new)).sum(axis + 1)
        elif new % old == 0:
            resized = resized.repeat_interleave(new // old, axis) / (new // old)
        else:
            divisors = " | ".join(str(divisor) for divisor in range(1, old + 1) if old % divisor == 0)
            allowed = f"{divisors}, or a multiple of {old}: the weights have patches of {old} pixels"
            raise UserError("model.patch_size", new, allowed)
    return resized.to(kernel.dtype)


def resize_positions(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Learned position embeddings for another grid of patches, by bilinear interpolation.

    Cells are aligned by their edges (``align_corners=False``), without antialiasing. What stands before the grid
    (class token, distillation token, registers) is kept as it is.

    Args:
        positions: (1, T, D); the last ``old[0] * old[1]`` of the T tokens are the grid, row by row.
        old: Height and width of the grid, in patches.
        new: Those wanted.

    Returns:
        (1, T', D), in the type of ``positions``.

    Note:
        timm's own interpolation is bicubic and antialiased.
    """
    before = positions.shape[1] - old[0] * old[1]
    grid = positions[:, before:].unflatten(1, old).permute(0, 3, 1, 2)
    grid = grid.to(torch.promote_types(grid.dtype, torch.float32))
    grid = F.interpolate(grid, size=new, mode="bilinear", align_corners=False, antialias=False)
    grid = grid.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)
    return torch.cat([positions[:, :before], grid], dim=1)


def fit_sizes(state: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """A copy of ``state`` whose patch kernel, positions and bias tables have the sizes of ``net``.

    Swin's tables of relative positions go through timm's own interpolation. A ``ConvStem`` of the net stays as it is
    where the state has not the same one. Whatever else does not fit is left for the loader to refuse.

    Args:
        state: Of a net of the same architecture, without prefixes.
        net: Where it will be loaded; may be on the meta device.

    Raises:
        UserError: If the kernel cannot be brought to this patch size.
    """
    from timm.layers.patch_embed import PatchEmbed

    own, fitted = net.state_dict(), dict(state)
    embed = getattr(net, "patch_embed", None)
    if isinstance(embed, PatchEmbed):
        if isinstance(embed.proj, ConvStem):
            fitted = _with_stem(fitted, own)
        elif _comparable(fitted, own, _KERNEL, axes=4):
            height, width = (int(side) for side in embed.patch_size)
            fitted[_KERNEL] = resize_kernel(fitted[_KERNEL], (height, width))
        if _comparable(fitted, own, _POSITIONS, axes=3) and embed.grid_size is not None:
            height, width = (int(side) for side in embed.grid_size)
            fitted[_POSITIONS] = _fit_positions(fitted[_POSITIONS], own[_POSITIONS], (height, width))
    for name in fitted:
        if name.endswith(_TABLE) and _comparable(fitted, own, name, axes=2):
            fitted[name] = _fit_table(fitted[name], own[name], net.get_submodule(name.removesuffix(_TABLE)))
    return fitted


def same_shapes(state: Mapping[str, Tensor], net: nn.Module) -> bool:
    """Whether ``state`` has the names and shapes of ``net``."""
    own = net.state_dict()
    return state.keys() == own.keys() and all(state[name].shape == own[name].shape for name in own)


def _comparable(state: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str, *, axes: int) -> bool:
    """Whether both have this tensor, in other shapes of so many axes."""
    if name not in state or name not in own or state[name].shape == own[name].shape:
        return False
    return state[name].ndim == own[name].ndim == axes


def _with_stem(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    theirs = {name: value.shape for name, value in state.items() if name.startswith(_EMBED)}
    stem = {name: value for name, value in own.items() if name.startswith(_EMBED)}
    if theirs == {name: value.shape for name, value in stem.items()}:
        return state
    return {name: value for name, value in state.items() if name not in theirs} | stem


def _fit_positions(positions: Tensor, own: Tensor, grid: tuple[int, int]) -> Tensor:
    before = own.shape[1] - grid[0] * grid[1]
    patches = positions.shape[1] - before
    side = isqrt(max(patches, 0))
    if before < 0 or side == 0 or side * side != patches or positions.shape[2] != own.shape[2]:
        return positions
    return resize_positions(positions, (side, side), grid)


def _fit_table(table: Tensor, own: Tensor, attention: nn.Module) -> Tensor:
    from timm.layers import resize_rel_pos_bias_table

    window = getattr(attention, "window_size", None)
    if window is None or table.shape[1] != own.shape[1]:
        return table
    if own.is_meta:
        return torch.empty_like(own)
    with warnings.catch_warnings():
        # Without scipy, timm indexes in a way that torch warns of.
        warnings.simplefilter("ignore")
        return resize_rel_pos_bias_table(table, new_window_size=window, new_bias_shape=own.shape)
