"""Attention random dropping (Mo et al., 2022, arXiv:2210.07540): attacks whose gradients pass some blocks by."""

from collections.abc import Iterator

import torch
from pydantic import PrivateAttr
from torch import Tensor, nn

from ..config import Settings
from ..errors import UserError
from ..schedules import Share
from ..types import Images

_PROJECTIONS = ("qkv", "qk", "q", "q_proj", "query", "in_proj_weight")
_OUTPUTS = ("proj", "out_proj", "o_proj")


class AttentionDropping(Settings):
    """In each block and step the whole attention branch gets no gradient, with a probability that falls from 1 to 0.

    The forward stays as it is; in the backward (I + J_mlp)(I + gamma J_attention), gamma 0 or 1, drawn anew for every
    block and every step of the attack. With the keep-probability r growing over the warm-up, attacks are weak and local
    at first. Only while training examples are crafted; never in the update, never in an evaluation.

    Note:
        Where the read-out is a class token, pixels reach it through attention alone: with all branches that carry it
        dropped the gradient is exactly zero and the step does nothing, by design of the original (probability
        (1 - r)^blocks; two blocks in ConViT). As in the official code one draw holds for the whole batch; theirs is a
        hook on a module of their own copies of the nets, here the attention modules are found by what they hold.
    """

    warmup: Share = 0.25
    """Share of training over which dropping fades out: 10 of 40 epochs."""
    per_example: bool = False
    """A draw of its own for every image; by default one for the batch."""
    _keep: float = PrivateAttr(default=1.0)
    _gates: "list[_Gate]" = PrivateAttr(default_factory=list)

    def begin(self, model: nn.Module, progress: float) -> None:
        """``progress`` decides the keep-probability.

        Raises:
            UserError: If the net has no attention.
        """
        self._keep = min(progress / self.warmup, 1.0) if self.warmup else 1.0
        self._gates = [_Gate(module) for module in attention_of(model)] if self._keep < 1 else []

    def step(self, k: int, x_adv: Images, x: Images) -> Images:
        """Draw which blocks the next gradient passes by."""
        if self._gates:
            size = len(x) if self.per_example else 1
            # On the host: a draw decides what is computed, and one for the batch needs no tensor on the device
            kept = torch.rand(len(self._gates), size) < self._keep
            for gate, row in zip(self._gates, kept, strict=True):
                gate.kept = row.to(x.device) if self.per_example else bool(row)
        return x_adv

    def finish(self, x_adv: Images, x: Images) -> Images:
        """The result of the attack, as it is."""
        return x_adv

    def end(self) -> None:
        """Take the gates away."""
        for gate in self._gates:
            gate.remove()
        self._gates = []


class _Gate:
    """Lets the gradient into an attention module or not."""

    def __init__(self, module: nn.Module) -> None:
        self.kept: bool | Tensor = True
        """For all images, or (B,)."""
        self._handle = module.register_forward_hook(self._gated)

    def remove(self) -> None:
        self._handle.remove()

    def _gated(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if isinstance(self.kept, bool):
            return output if self.kept else output.detach()
        # Windows of one image follow each other
        kept = self.kept.repeat_interleave(len(output) // len(self.kept))
        return torch.where(kept.view(-1, *[1] * (output.ndim - 1)), output, output.detach())


def attention_of(model: nn.Module) -> list[nn.Module]:
    """The attention modules of a net, in its order: what holds projections to queries and from values.

    Raises:
        UserError: If there are none.
    """
    found = list(_attention(model))
    if not found:
        raise UserError("crafting.attention_dropping", "a net without attention", "a vision transformer", "model.name")
    return found


def _attention(module: nn.Module) -> Iterator[nn.Module]:
    if any(hasattr(module, name) for name in _PROJECTIONS) and any(hasattr(module, name) for name in _OUTPUTS):
        yield module
        return
    for child in module.children():
        yield from _attention(child)
