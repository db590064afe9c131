"""The colours of images at points between their pixels: what resized crops, rotations and shears have in common."""

from __future__ import annotations

from ..libraries import F, Tensor, torch


def sampled(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear values of each image at places of its own; beyond the border, those of the border.

    There is no low-pass filter: an image must not be made smaller this way.

    Args:
        x: (B, C, H, W) of any type; integers come back rounded.
        rows: Broadcastable to (B, H', W'), in pixels: pixel i reaches from i to i + 1, its centre is i + 0.5.
        columns: The same along the width.

    Returns:
        (B, C, H', W'), of the type of ``x``.
    """
    height, width = x.shape[2:]
    grid = torch.stack(torch.broadcast_tensors(2 * columns / width - 1, 2 * rows / height - 1), dim=-1)
    values = F.grid_sample(
        x if x.is_floating_point() else x.float(),
        grid.expand(len(x), -1, -1, -1),
        padding_mode="border",
        align_corners=False,
    )
    return values if x.is_floating_point() else values.round_().to(x.dtype)
