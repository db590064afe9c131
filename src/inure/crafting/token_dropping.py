"""Attention-guided token dropping (AGAT, Wu et al., 2022, arXiv:2207.10498): cheaper passes while crafting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PrivateAttr

from ..libraries import nn
from ..settings.config import Real, Settings
from ..types import Images

if TYPE_CHECKING:
    from .droppers import Dropper


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
    _droppers: list[Dropper] = PrivateAttr(default_factory=list)

    def prepare(self, model: nn.Module) -> None:
        """Build the hooks in, before the net is compiled.

        Raises:
            UserError: If the net's tokens cannot leave.
        """
        from .droppers import droppers_of

        droppers_of(model)

    def begin(self, model: nn.Module, progress: float) -> None:
        """Drop from here on."""
        from .droppers import droppers_of

        self._droppers = droppers_of(model)
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
