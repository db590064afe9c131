"""Droppers: which tokens leave after a block. Hooks that stay in a net, without effect while nothing is crafted."""

from typing import Any

import torch
from torch import Tensor, nn

from ..settings.errors import UserError


class Dropper:
    """Of one block: reads the queries and keys of its attention, and cuts the block's output."""

    def __init__(self, prefix: int) -> None:
        self.rate, self.prefix = 0.0, prefix
        self._qkv: Tensor | None = None

    def read(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """At the projection to queries, keys and values."""
        self._qkv = output.detach() if self.rate else None

    def cut(self, block: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """(B, N, D) to (B, floor(N (1 - rate)), D); the tokens before the patches stay."""
        qkv, self._qkv = self._qkv, None
        if qkv is None:
            return output
        kept = int(output.shape[1] * (1 - self.rate)) - self.prefix
        received = _received(block.attn, qkv)[:, self.prefix :]
        rows = received.topk(max(kept, 1), dim=1).indices + self.prefix
        patches = output.gather(1, rows[..., None].expand(-1, -1, output.shape[2]))
        return torch.cat([output[:, : self.prefix], patches], dim=1)


@torch.no_grad()
def _received(attention: Any, qkv: Tensor) -> Tensor:
    """(B, N) attention that each token received, summed over heads and queries."""
    size, tokens, _ = qkv.shape
    q, k, _ = qkv.view(size, tokens, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(q), attention.k_norm(k)
    return (q * attention.scale @ k.transpose(-2, -1)).softmax(-1).sum((1, 2))


def droppers_of(model: nn.Module) -> list[Dropper]:
    """One for every block but the last; where there are none yet, they are built in and stay, without effect."""
    from timm.models.vision_transformer import Attention, VisionTransformer

    nets = [module for module in model.modules() if isinstance(module, VisionTransformer)]
    blocks = [block for net in nets for block in net.blocks]
    if not blocks or not all(isinstance(getattr(block, "attn", None), Attention) for block in blocks):
        allowed = "null for nets other than timm's VisionTransformer: only its tokens can leave"
        raise UserError("crafting.token_dropping", "on", allowed, "a ViT or DeiT as model.name")
    return [_dropper_of(block, net.num_prefix_tokens) for net in nets for block in list(net.blocks)[:-1]]


def _dropper_of(block: Any, prefix: int) -> Dropper:
    dropper = getattr(block, "token_dropper", None)
    if dropper is None:
        # An attribute too: a copy of the net finds its own
        dropper = block.token_dropper = Dropper(prefix)
        block.attn.qkv.register_forward_hook(dropper.read)
        block.register_forward_hook(dropper.cut)
    return dropper
