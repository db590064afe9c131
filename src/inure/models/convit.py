"""What timm's ConViT (d'Ascoli et al., 2021, arXiv:2103.10697) needs before it runs: its relative positions."""

from typing import Any

from torch import nn

from ..settings.errors import UserError


def settle_convit(net: nn.Module, name: str) -> None:
    """Give each gated attention of ``net``, in place, the relative positions of its patches. Other nets stay.

    timm fills these buffers in the first forward, where they change their shape: copies of the net that were made
    before, an average of weights for one, would not fit it any more.

    Args:
        net: Any net.
        name: Its name, for messages.

    Raises:
        UserError: If it is a ConViT whose grid of patches is not square; it takes positions from their number alone.
    """
    from timm.models.convit import GPSA, ConVit

    if not isinstance(net, ConVit):
        return
    embed: Any = net.patch_embed
    height, width = embed.grid_size
    if height != width:
        given = f"{name} with {height}x{width} patches"
        raise UserError("model.img_size", given, "a square: ConViT knows no other positions", "model.img_size=32")
    attentions: list[Any] = [module for module in net.modules() if isinstance(module, GPSA)]
    for attention in attentions:
        # Older versions of timm keep them as a plain attribute, which does not follow the net to its device.
        if "rel_indices" in attention._buffers:
            attention.rel_indices = attention.get_rel_indices(height * width)
