"""Prompt tokens per domain behind a gate that starts at zero (LLaMA-Adapter, Zhang et al., 2023, arXiv:2303.16199)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Mixed, exchange
from .mixture import Mixture
from .stacks import Stacks


class Prompt(Stacks):
    """k tokens and one gate per domain, shared by all blocks.

    Tokens put into the sequence would change the softmax of every other token, so that no gate could start at
    zero: here each attention looks at them in a softmax of its own, and the gate weighs what it sees.

    Args:
        mixture: The choice in use.
        tokens: k.
        like: (..., D) of the net, for width, precision and device.
    """

    def __init__(self, mixture: Mixture, tokens: int, like: Tensor) -> None:
        super().__init__()
        self.mixture = mixture
        first = torch.nn.init.trunc_normal_(like.detach().new_empty(tokens, like.shape[-1]), std=0.02)
        self.tokens = nn.Parameter(first.expand(len(mixture.domains), -1, -1).clone())
        self.gate = nn.Parameter(first.new_zeros(len(mixture.domains)))

    def forward(self, size: int) -> tuple[Tensor, Tensor]:
        """Tokens (size, k, D) and gates (size, 1, 1)."""
        if self.mixture.folded:
            tokens, gate = self.mixture.fold(self.tokens)[None], self.mixture.fold(self.gate).view(1)
        else:
            tokens, gate = self.mixture.unfold(self.tokens, size), self.mixture.unfold(self.gate, size)
        return tokens.expand(size, -1, -1), gate.view(-1, 1, 1)


class MixedAttention(Mixed):
    """timm's attention that also looks at the prompt."""

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """(B, N, D), plus what the tokens see in the prompt times the gate."""
        output = super().forward(x, *arguments, **options)  # type: ignore[misc]
        module: Any = self
        tokens, gate = module.__dict__["prompt"](len(x))
        dim, heads = x.shape[-1], module.num_heads
        weights = module.qkv.weight.chunk(3)
        biases = module.qkv.bias.chunk(3) if module.qkv.bias is not None else (None, None, None)
        q, k, v = (
            F.linear(t, w, b).unflatten(-1, (heads, dim // heads)).transpose(1, 2)
            for t, w, b in zip((x, tokens, tokens), weights, biases, strict=True)
        )
        seen = F.scaled_dot_product_attention(module.q_norm(q), module.k_norm(k), v, scale=module.scale)
        return output + gate * F.linear(seen.transpose(1, 2).flatten(2), module.proj.weight)


def attach(net: nn.Module, mixture: Mixture, settings: Any) -> int:
    """Every attention of timm's ViT kind (``qkv``, ``q_norm``, ``proj``) as wide as the first."""
    names = ("qkv", "q_norm", "k_norm", "proj", "num_heads", "scale")
    attentions: list[Any] = [m for m in net.modules() if all(hasattr(m, name) for name in names)]
    if not attentions:
        return 0
    dim = attentions[0].qkv.in_features
    prompt = Prompt(mixture, settings.prompt_tokens, attentions[0].qkv.weight)
    net.add_module("prompt", prompt)
    attentions = [a for a in attentions if a.qkv.in_features == dim]  # stages of another width see no prompt
    for attention in attentions:
        exchange(attention, MixedAttention, mixture)
        attention.__dict__["prompt"] = prompt  # not as a module of its own: it is one, shared by all
    return len(attentions)
