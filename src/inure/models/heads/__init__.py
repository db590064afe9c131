"""Classification heads other than a net's own linear layer. To add one: write the file, add it to the union."""

from typing import Annotated

from pydantic import Field

from .cosine import CosineHead, CosineLinear, LinearHead, put_head

Head = Annotated[LinearHead | CosineHead, Field(discriminator="kind")]
HEADS = (LinearHead, CosineHead)

__all__ = ["HEADS", "CosineHead", "CosineLinear", "Head", "LinearHead", "put_head"]
