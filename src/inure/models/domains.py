"""A net in one of its domains, for who knows nothing of domains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..libraries import nn

if TYPE_CHECKING:
    from .adapters import Mix


def in_domain(model: nn.Module, mix: Mix | None) -> nn.Module:
    """``model`` as a net of images alone, under ``mix``; itself if it has no domains to choose from.

    Meant for attacks and validation, which know nothing of domains. None, and any mix of a net without domains, leave
    the net as it is.
    """
    if mix is None or not getattr(model, "domains", ()):
        return model
    from .adapt import InDomain

    return InDomain(model, mix)
