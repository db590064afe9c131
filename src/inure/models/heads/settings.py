"""Which last layer a net has: the settings of the heads."""

from typing import Annotated, Literal

from pydantic import Field

from ...settings.config import Real, Settings


class LinearHead(Settings):
    """The net's own last layer."""

    kind: Literal["linear"] = "linear"


class CosineHead(Settings):
    """scale * <w / (|w| + gamma), z / |z|>, without a bias: with long tails |w| grows with the class, angles do not."""

    kind: Literal["cosine"] = "cosine"
    gamma: Annotated[Real, Field(ge=0)] = 1 / 32
    """Shrinks the logits of short weights; RoBal: 1/32, in one setting 1/16. 0: cosines."""
    scale: Annotated[Real, Field(gt=0)] = 1.0
    """1 as in RoBal and LDAM, whose criteria bring a scale of their own; about 10 to 30 with plain cross-entropy.
    Attacks see it too: compare nets at one scale, or with losses that do not (DLR, margin)."""


Head = Annotated[LinearHead | CosineHead, Field(discriminator="kind")]
HEADS = (LinearHead, CosineHead)
