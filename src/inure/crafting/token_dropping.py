"""Attention-guided token dropping (AGAT, Wu et al., 2022, arXiv:2207.10498): cheaper passes while crafting."""

from typing import Annotated, Any

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor, nn

from ..settings.config import Real, Settings
from ..settings.errors import UserError
from ..types import Images


class TokenDropping(Settings):
    """After each block only the tokens that its attention looked at most go on, floor(N (1 - rate)) of N.

    What a token received is its attention summed over heads and queries. Class tokens always stay. With the default
    about 28 % of the tokens reach the last of twelve blocks, and pixels whose token left get gradients from the
    blocks before. Only while training images are crafted: every forward of the attack, the clean ones of TRADES
    among them, so that both sides of its divergence see the same net.

    Note:
        AGAT drops between attention and MLP, here after the MLP, which costs half a block's tokens more and leaves
        blocks as they are; nothing is dropped after the last block. AGAT trains so with a single step of the size of
        epsilon from a random start; here the attack is the method's own. For nets that are timm's VisionTransformer
        (ViT, DeiT, ours), whose tokens carry their own place; ConViT and Swin cannot lose tokens.
    """

    rate: Annotated[Real, Field(ge=0, lt=1)] = 0.1
    """Share of the tokens that leaves after each block."""
    _droppers: "list[_Dropper]" = PrivateAttr(default_factory=list)

    def prepare(self, model: nn.Module) -> None:
        """Build the hooks in, before the net is compiled.

        Raises:
            UserError: If the net's tokens cannot leave.
        """
        _droppers_of(model)

    def begin(self, model: nn.Module, progress: float) -> None:
        """Drop from here on."""
        self._droppers = _droppers_of(model)
        for dropper in self._droppers:
            dropper.rate = self.rate

    def step(self, k: int, x_adv: Images, x: Images) -> Images:
        """The image as it is."""
        return x_adv

    def end(self) -> None:
        """All tokens stay."""
        for dropper in self._droppers:
            dropper.rate = 0.0
        self._droppers = []


class _Dropper:
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


def _droppers_of(model: nn.Module) -> list[_Dropper]:
    """One for every block but the last; where there are none yet, they are built in and stay, without effect."""
    from timm.models.vision_transformer import Attention, VisionTransformer

    nets = [module for module in model.modules() if isinstance(module, VisionTransformer)]
    blocks = [block for net in nets for block in net.blocks]
    if not blocks or not all(isinstance(getattr(block, "attn", None), Attention) for block in blocks):
        allowed = "null for nets other than timm's VisionTransformer: only its tokens can leave"
        raise UserError("crafting.token_dropping", "on", allowed, "a ViT or DeiT as model.name")
    return [_dropper_of(block, net.num_prefix_tokens) for net in nets for block in list(net.blocks)[:-1]]


def _dropper_of(block: Any, prefix: int) -> _Dropper:
    dropper = getattr(block, "token_dropper", None)
    if dropper is None:
        # An attribute too: a copy of the net finds its own
        dropper = block.token_dropper = _Dropper(prefix)
        block.attn.qkv.register_forward_hook(dropper.read)
        block.register_forward_hook(dropper.cut)
    return dropper
