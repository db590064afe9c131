"""What is measured of a net while it trains, between two epochs, on images that stay the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from ..data import ImageSet
from ..kernels.probe import balanced_rows
from ..libraries import nn, torch
from ..models.modes import attack_mode
from ..noise import CounterNoise
from ..settings.config import Settings, Whole
from ..types import Batch, Images, Memory, Noise, Search


class Measured(Settings):
    """The fields that all measures share."""

    every: Annotated[Whole, Field(ge=1)] = 1
    """Epochs between two looks; the last epoch always has one."""


@dataclass(frozen=True)
class Probe:
    """A net, and the images that every measure of a run looks at: validation images, not augmented."""

    model: nn.Module
    """The net that is trained (not its average), in whatever mode; to be left as found, gradients and buffers too."""
    images: ImageSet
    recipe: Any
    method: Any
    """What trains at the moment: the recipe's method, or what a phase of its regime makes of it."""
    progress: float
    device: torch.device
    memory: Memory
    """What the run remembers; a measure keeps there what it compares with."""

    def batch(self, examples: int) -> tuple[Batch, Noise]:
        """At most so many images, the same at each look, equally many of each class, and noise of their own."""
        x, y, index = self.images.examples(balanced_rows(self.images, examples), self.device)
        return Batch(x, y, index, self.progress, self.memory), CounterNoise(0, index)

    @property
    def attack(self) -> Any:
        """The method's attack at its strength of the moment; None if it has none."""
        attack = getattr(self.method, "attack", None)
        return None if attack is None else self.recipe.regime.scale(attack, self.progress)

    @property
    def search(self) -> Search | None:
        """The same as ``method.craft`` takes it."""
        return self.recipe.regime.search(self.method, self.progress)

    def attacked(self, batch: Batch, noise: Noise) -> Images:
        """The images as the attack leaves them, with the same noise at each look; themselves if there is none."""
        if self.attack is None:
            return batch.x
        with attack_mode(self.model, "eval"):
            return self.attack(self.model, batch.x, batch.y, noise=noise)
