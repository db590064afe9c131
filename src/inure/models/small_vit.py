"""Vision transformers (Dosovitskiy et al., 2020, arXiv:2010.11929) for images of 8 to 64 pixels.

timm's own net with explicit arguments: pre-norm, a class token, learned position embeddings, a bias on q, k
and v, ``F.scaled_dot_product_attention``, linear weights from a truncated normal of 0.02. Tiny and small are
the widths of DeiT (Touvron et al., 2020, arXiv:2012.12877); parameters carry timm's names.

``vit_small_legacy`` is what the code of Mo et al. (2022, arXiv:2210.07540) calls ViT-S: the "small" of old versions of
timm, of width 768 with 8 blocks, 8 heads, MLPs three times as wide, no bias on q, k and v, and norms with 1e-5. Its
published weights, which current timm does not have, went with attention scaled by 768^-0.5; from scratch the scale
was, and is here, the usual 96^-0.5.
"""

from functools import partial

from torch import nn

from ..settings.errors import UserError
from .conv_stem import put_conv_stem


def small_vit(
    *,
    dim: int,
    depth: int,
    heads: int,
    patch_size: int,
    img_size: tuple[int, int],
    num_classes: int = 10,
    in_channels: int = 3,
    drop_path: float = 0.0,
    stem: str | None = None,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    eps: float = 1e-6,
) -> nn.Module:
    """A ViT whose features are its normalised class token (B, dim).

    Args:
        dim: Width of a token.
        depth: Number of blocks.
        heads: Attention heads per block.
        patch_size: Height and width of a patch, in pixels.
        img_size: Height and width of the images; both are multiples of ``patch_size``.
        num_classes: K.
        in_channels: C.
        drop_path: Stochastic depth of the last block; it grows linearly with depth.
        stem: ``conv`` for a ``ConvStem`` in place of the one convolution that cuts out patches.
        mlp_ratio: Width of the hidden layer of an MLP, in widths of a token.
        qkv_bias: Whether q, k and v have biases.
        eps: What the norms add to the variance.

    Raises:
        UserError: If patches do not tile the image, or a ``ConvStem`` cannot make them.
    """
    from timm.models.vision_transformer import VisionTransformer

    if img_size[0] % patch_size or img_size[1] % patch_size:
        size = f"{img_size[0]}x{img_size[1]}"
        raise UserError("model.patch_size", patch_size, f"a divisor of the image size {size}")
    net = VisionTransformer(
        img_size=img_size,
        patch_size=patch_size,
        in_chans=in_channels,
        num_classes=num_classes,
        global_pool="token",
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        mlp_ratio=mlp_ratio,
        qkv_bias=qkv_bias,
        class_token=True,
        pos_embed="learn",
        pre_norm=False,
        drop_path_rate=drop_path,
        weight_init="",
        norm_layer=partial(nn.LayerNorm, eps=eps),
        act_layer=nn.GELU,
    )
    if stem is not None:
        put_conv_stem(net, "this ViT")
    return net
