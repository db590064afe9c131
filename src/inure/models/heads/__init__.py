"""Classification heads other than a net's own linear layer. To add one: its settings, its file, its name here."""

from typing import TYPE_CHECKING

from ...libraries import later
from .settings import HEADS, CosineHead, Head, LinearHead

if TYPE_CHECKING:
    from .cosine import CosineLinear, put_head

__all__ = ["HEADS", "CosineHead", "CosineLinear", "Head", "LinearHead", "put_head"]
__getattr__, __dir__ = later(__name__, {"CosineLinear": "cosine", "put_head": "cosine"})
