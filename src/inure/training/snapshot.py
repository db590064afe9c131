"""What a checkpoint holds: everything from which a run continues exactly."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from ..averaging import Averager
from ..memory import restore
from ..recipe.recipe import Recipe
from ..recipe.regime import Regime
from ..settings.config import dump
from ..types import Memory
from . import statistics


@dataclass
class Progress:
    """What besides tensors is needed to continue exactly."""

    epoch: int = 0
    step: int = 0
    step_in_epoch: int = 0
    lr_factor: float = 1.0
    rollbacks: int = 0
    phase: int = 0
    """Of the regime, or later than its share of training says, if a measure ended one."""
    phase_steps: dict[str, int] = field(default_factory=dict)
    """Steps made in each phase, by its number; those that a return to a checkpoint undid are counted."""
    below: int = 0
    """Looks in a row at which what the phase waits for was small enough."""
    recovery: int = 0
    """Epochs still to be trained with PGD, after catastrophic overfitting."""
    recovery_steps: int = 0
    """Steps made so, counted likewise."""
    collapsed: bool = False
    """Whether training ends here for that reason."""
    seconds: float = 0.0
    best: dict[str, Any] | None = None
    last: dict[str, Any] | None = None
    sums: dict[str, float] = field(default_factory=dict)

    def enter(self, phase: int) -> bool:
        """Count a step of a phase of the regime; whether it begins the run, or a phase by its share of training.

        Looks at a measure count for the phase in which they were made.
        """
        begins = phase != self.phase or not self.phase_steps
        self.phase, self.below = phase, self.below if phase == self.phase else 0
        self.phase_steps[str(phase)] = self.phase_steps.get(str(phase), 0) + 1
        return begins

    def end_epoch(self, regime: Regime, measured: dict[str, float]) -> bool:
        """One epoch less of a recovery; else whether what was measured ends the phase, so that the next one begins."""
        if self.recovery:
            self.recovery -= 1
            return False
        wait = regime.phases[self.phase].below if self.phase < len(regime.phases) else None
        if wait is None or wait.measure not in measured:
            return False
        self.below = self.below + 1 if measured[wait.measure] < wait.value else 0
        if self.below < wait.times:
            return False
        self.phase, self.below = self.phase + 1, 0
        return True


def take(
    fabric: Any,
    recipe_hash: str,
    progress: Progress,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    averager: Averager | None,
    memory: Memory,
) -> dict[str, Any]:
    """The content of a checkpoint. Called by all processes together: each has buffers of its own."""
    return {
        "recipe_hash": recipe_hash,
        "progress": json.dumps(asdict(progress)),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "averager": averager.state_dict() if averager else None,
        "memory": memory,
        "buffers": {
            "model": statistics.gather(fabric, model),
            "averager": statistics.gather(fabric, averager.module) if averager else {},
        },
    }


def put_back(
    fabric: Any,
    content: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    averager: Averager | None,
    memory: Memory,
) -> Progress:
    """Load what ``take`` took."""
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    statistics.scatter(fabric, model, content["buffers"]["model"])
    if averager is not None:
        averager.load_state_dict(content["averager"])
        statistics.scatter(fabric, averager.module, content["buffers"]["averager"])
    restore(memory, content["memory"])
    return Progress(**json.loads(content["progress"]))


def hash_of(recipe: Recipe) -> str:
    """sha256 of a recipe's settings; ``about`` does not count."""
    tree = {key: value for key, value in dump(recipe).items() if key != "about"}
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
