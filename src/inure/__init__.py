"""Inure: adversarial training of vision models, and robustness numbers that can be trusted.

The names below are loaded when they are first used, so that ``import inure`` and ``inure --help`` stay quick.
"""

from typing import TYPE_CHECKING, Any

from .libraries import later

if TYPE_CHECKING:
    from . import attacks, methods, models, optimizers
    from .evaluation import Evaluation, evaluate
    from .models.adapt import adapt, fold
    from .recipe.recipe import Recipe, load_recipe
    from .runs.load import load
    from .settings.errors import UserError
    from .study import Study, run_study
    from .threat import L1, L2, Linf
    from .training.step import train_step
    from .training.train import train

_HOMES = {
    "Evaluation": "evaluation",
    "L1": "threat",
    "L2": "threat",
    "Linf": "threat",
    "Recipe": "recipe.recipe",
    "Study": "study",
    "UserError": "settings.errors",
    "adapt": "models.adapt",
    "attacks": "attacks",
    "evaluate": "evaluation",
    "fold": "models.adapt",
    "load": "runs.load",
    "load_recipe": "recipe.recipe",
    "methods": "methods",
    "models": "models",
    "optimizers": "optimizers",
    "run_study": "study",
    "train": "training.train",
    "train_step": "training.step",
}

__all__ = [
    "L1", "L2", "Evaluation", "Linf", "Recipe", "Study", "UserError", "adapt", "attacks", "evaluate", "fold", "load",
    "load_recipe", "methods", "models", "optimizers", "run_study", "train", "train_step",
]  # fmt: skip


_get, _ = later(__name__, _HOMES)


def __getattr__(name: str) -> Any:
    if name != "__version__":
        return _get(name)
    from importlib import metadata

    return metadata.version("inure")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
