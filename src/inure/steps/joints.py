"""What a step joins to its method: one record for every step function."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..averaging import Averager
from ..balance import Balance
from ..types import Crafting


@dataclass(frozen=True, kw_only=True)
class Joints:
    """The joints of a step. One that is off is None (or empty) and is skipped."""

    balance: Balance
    """The criteria of attack and update."""
    regime: Any
    """A ``Regime``: how strong the attack is at each progress."""
    crafting: Crafting | None = None
    """A trick active only while crafting."""
    penalties: Sequence[Any] = ()
    """Terms added to the method's loss, and perhaps to the attack's."""
    perturbation: Any = None
    """Where the gradient is taken; None: at the weights themselves."""
    averager: Averager | None = None
    """The weights that will be evaluated."""
    clip_norm: float | None = None
    """Global L2 norm to which gradients are clipped."""

    def refuse_inner(self, reason: str) -> None:
        """For steps that have no place for tricks, penalties and perturbations; a recipe refuses them by name."""
        assert self.crafting is None, reason
        assert self.perturbation is None, reason
        assert not self.penalties, reason
