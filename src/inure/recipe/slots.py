"""Slots: what can vary in a run, with defaults. The combinations that are refused are in ``refusals.py``.

Read this first (what can vary), then ``training/step.py`` (how it joins), then one method.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..averaging import Averaging
from ..balance import Balance
from ..crafting import Tricks
from ..data import Augment, Data
from ..evaluation.by_class import Groups, ShareGroups
from ..evaluation.suites import SUITES
from ..machine.engine import Engine
from ..measures import Measure
from ..methods import Method, Standard
from ..models.settings import Model
from ..optimizers import Optimizer
from ..optimizers.sgd import SGD
from ..penalties import AnyPenalty
from ..perturbation import Perturbation
from ..schedules import Cosine, Schedule
from ..settings.config import Real, Settings, Whole
from ..settings.errors import unknown_name
from ..threat import Linf, ThreatModel
from .catastrophic import Action, Collapse
from .regime import Regime

Positive = Annotated[Whole, Field(ge=1)]


class EvaluationSettings(Settings):
    """What robustness means for this run: the threat, and how it is measured on the validation split."""

    threat: ThreatModel = Linf()
    suite: str = "quick"
    """What ``inure evaluate`` runs when no suite is named."""
    validation_steps: Positive = 10
    """Steps of the PGD attack that selects the best checkpoint."""
    validation_examples: Positive = 1000
    """At most so many validation images are attacked at each check."""
    groups: Groups = ShareGroups()
    """Which classes are head, body and tail, where the training images are long-tailed."""

    @model_validator(mode="after")
    def _known_suite(self) -> "EvaluationSettings":
        if self.suite not in SUITES:
            raise unknown_name("suite", self.suite, SUITES)
        return self


class Checkpoint(Settings):
    """When the run is validated and saved, and which weights it hands on."""

    every: Positive = 1
    """Epochs between validations and checkpoints; the last epoch always has one."""
    select: Literal["best", "last"] = "best"
    """Which weights become weights.safetensors. Both are kept."""
    metric: Literal["auto", "clean", "robust", "balanced_clean", "balanced_robust", "worst_class_robust"] = "auto"
    """What ``best`` means on the validation split; auto: robust, but clean for methods that do not attack, and with
    ``data.long_tail`` the balanced form: the mean over classes."""


class Guards(Settings):
    """What happens when training goes wrong."""

    nonfinite: Literal["stop", "rollback"] = "stop"
    """``rollback``: back to the last checkpoint with a lower learning rate."""
    max_rollbacks: Positive = 3
    rollback_factor: Annotated[Real, Field(gt=0, lt=1)] = 0.5
    check_every: Positive = 20
    """Steps between looks at the losses; one look is one host synchronisation."""
    catastrophic: Action = "warn"
    """At catastrophic overfitting. ``stop``: end, with the best weights; ``switch``: train with PGD for
    ``recovery_epochs``; ``rollback``: back to the last sound checkpoint with a lower learning rate, and that too."""
    collapse: Collapse = Collapse()
    recovery_epochs: Annotated[Whole, Field(ge=0)] = 2
    recovery_steps: Positive = 7
    """Of PGD during a recovery."""


class Slots(Settings):
    """Everything that decides the outcome of a run. Whether the slots go together is for ``Recipe`` to say."""

    about: str = ""
    """What this recipe is and where its settings come from."""
    seed: Annotated[Whole, Field(ge=0)] = 0
    epochs: Positive = 10
    batch_size: Positive = 128
    """Images a step, over all devices."""
    data: Data = Data()
    augment: Augment | None = None
    model: Model = Model()
    method: Method = Standard()
    penalties: list[AnyPenalty] = []
    balance: Balance = Balance()
    regime: Regime = Regime()
    crafting: Tricks | None = None
    perturbation: Perturbation | None = None
    averaging: Averaging | None = None
    optimizer: Optimizer = SGD()
    schedule: Schedule = Cosine()
    engine: Engine = Engine()
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoint: Checkpoint = Checkpoint()
    guards: Guards = Guards()
    measures: list[Measure] = []
    """What is measured of the net between epochs, on validation images."""
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = []
    """Besides metrics.jsonl; each needs its extra: pip install 'inure[tensorboard]'."""
