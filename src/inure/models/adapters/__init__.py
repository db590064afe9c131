"""Parameters that exist once per domain. To add a kind: its file, its name in both lists of
``settings`` and in ``attachment``, its card.
"""

from typing import TYPE_CHECKING

from ...libraries import later
from .settings import ADAPTERS, Adapters, Kind

if TYPE_CHECKING:
    from .attachment import attach
    from .mixture import Mix, Mixture
    from .settling import settle

__all__ = ["ADAPTERS", "Adapters", "Kind", "Mix", "Mixture", "attach", "settle"]
__getattr__, __dir__ = later(
    __name__, {"Mix": "mixture", "Mixture": "mixture", "attach": "attachment", "settle": "settling"}
)
