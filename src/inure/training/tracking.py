"""Optional experiment trackers beside metrics.jsonl: TensorBoard, Weights & Biases, MLflow."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from ..settings.errors import UserError

_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


class Tracker(Protocol):
    """Where the records of epochs also go."""

    def log(self, record: dict[str, Any]) -> None:
        """Take one record."""

    def close(self) -> None:
        """Flush."""


class TensorBoard:
    """Event files under RUN/tensorboard."""

    def __init__(self, module: Any, run: Path, recipe: dict[str, Any]) -> None:
        self._writer = module.SummaryWriter(str(run / "tensorboard"))
        self._writer.add_text("recipe", str(recipe))

    def log(self, record: dict[str, Any]) -> None:
        """Scalars by name."""
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Flush."""
        self._writer.close()


class WandB:
    """One run of the project ``inure``; WANDB_MODE=offline keeps it on disk."""

    def __init__(self, module: Any, run: Path, recipe: dict[str, Any]) -> None:
        self._run = module.init(project="inure", name=run.name, dir=str(run), config=recipe, resume="allow")

    def log(self, record: dict[str, Any]) -> None:
        """Scalars by name."""
        self._run.log(scalars(record), step=record["step"])

    def close(self) -> None:
        """Flush."""
        self._run.finish()


class MLflow:
    """One run of the experiment ``inure`` at the tracking URI of the environment."""

    def __init__(self, module: Any, run: Path, recipe: dict[str, Any]) -> None:
        self._mlflow = module
        module.set_experiment("inure")
        module.start_run(run_name=run.name)
        module.log_dict(recipe, "recipe.json")

    def log(self, record: dict[str, Any]) -> None:
        """Scalars by name."""
        self._mlflow.log_metrics(scalars(record), step=record["step"])

    def close(self) -> None:
        """Flush."""
        self._mlflow.end_run()


_TRACKERS = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}


def open_trackers(names: Sequence[str], run: Path, recipe: dict[str, Any]) -> list[Tracker]:
    """The trackers of a run.

    Raises:
        UserError: If one's package is not installed.
    """
    trackers = []
    for name in names:
        try:
            module = importlib.import_module(_MODULES[name])
        except ImportError:
            raise UserError("trackers", name, "an installed tracker", f"pip install 'inure[{name}]'") from None
        trackers.append(_TRACKERS[name](module, run, recipe))
    return trackers


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of a record, nested names joined by slashes."""
    flat: dict[str, float] = {key: value for key, value in record.items() if isinstance(value, int | float)}
    for group in ("train", "validation", "measures"):
        flat |= {f"{group}/{key}": value for key, value in record.get(group, {}).items() if value is not None}
    return flat
