"""ConvStem (Singh, Croce and Hein, 2023, arXiv:2303.01870): small convolutions instead of one that cuts out patches."""

from typing import Any

import torch
from torch import nn

from ..settings.errors import UserError

_FIRST_WIDTH = 48


class ConvStem(nn.Sequential):
    """log2(patch) times [3 x 3 convolution of stride 2, LayerNorm over channels, GELU], then 1 x 1.

    Widths double from 48: 48, 96, 192, 384 for patches of 16, as in the authors' code whatever the width of the net.
    Takes (B, C, H, W) to (B, dim, H / patch, W / patch), as the convolution of a patch embedding does.

    Args:
        channels: C.
        dim: Width of a token.
        patch_size: Pixels on a side of what becomes one token; a power of two, at least 2.

    Note:
        Convolutions have biases and torch's own initial weights; the norms divide by sqrt(variance + 1e-6).
    """

    def __init__(self, channels: int, dim: int, patch_size: int) -> None:
        from timm.layers import LayerNorm2d

        halvings = patch_size.bit_length() - 1
        widths = [channels, *(_FIRST_WIDTH << i for i in range(halvings))]
        layers: list[nn.Module] = []
        for narrow, wide in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), LayerNorm2d(wide, eps=1e-6), nn.GELU()]
        super().__init__(*layers, nn.Conv2d(widths[-1], dim, 1))


def put_conv_stem(net: nn.Module, name: str) -> None:
    """Exchange, in place, the convolution of the patch embedding of ``net`` for a new ``ConvStem``.

    Args:
        net: A ViT with timm's plain patch embedding.
        name: Its name, for messages.

    Raises:
        UserError: If the net has no such embedding, or its patch size is no power of two.
    """
    embed: Any = getattr(net, "patch_embed", None)
    if not _is_plain(embed):
        allowed = f"null: {name} has no plain patch embedding that a ConvStem could replace"
        raise UserError("model.stem", "conv", allowed, "a ViT, DeiT or ConViT")
    height, width = embed.patch_size
    if height != width or height < 2 or height & (height - 1):
        allowed = "2 | 4 | 8 | 16 | ...: a ConvStem halves the image again and again"
        raise UserError("model.patch_size", height, allowed, "model.stem=null")
    with torch.device(embed.proj.weight.device):
        embed.proj = ConvStem(embed.proj.in_channels, embed.proj.out_channels, height)


def _is_plain(embed: Any) -> bool:
    from timm.layers.patch_embed import PatchEmbed

    return type(embed) is PatchEmbed and isinstance(embed.norm, nn.Identity)
