"""Inure: adversarial training of vision models, and robustness numbers that can be trusted.

The names below are loaded when they are first used, so that ``import inure`` and ``inure --help`` stay quick.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import attacks, methods, models, optimizers
    from .errors import UserError
    from .evaluation import Evaluation, evaluate
    from .load import load
    from .models.adapt import adapt, fold
    from .recipe import Recipe, load_recipe
    from .study import Study, run_study
    from .threat import L1, L2, Linf
    from .train import train, train_step

_HOME = {
    "Evaluation": "evaluation",
    "L1": "threat",
    "L2": "threat",
    "Linf": "threat",
    "Recipe": "recipe",
    "Study": "study",
    "UserError": "errors",
    "adapt": "models.adapt",
    "evaluate": "evaluation",
    "fold": "models.adapt",
    "load": "load",
    "load_recipe": "recipe",
    "run_study": "study",
    "train": "train",
    "train_step": "train",
}
_MODULES = ("attacks", "methods", "models", "optimizers")

__all__ = [
    "L1", "L2", "Evaluation", "Linf", "Recipe", "Study", "UserError", "adapt", "attacks", "evaluate", "fold", "load",
    "load_recipe", "methods", "models", "optimizers", "run_study", "train", "train_step",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    if name == "__version__":
        from importlib import metadata

        return metadata.version("inure")
    raise AttributeError(f"module 'inure' has no attribute {name!r}")


class _Package(ModuleType):
    """Importing the submodule ``inure.train`` binds ``train`` to the module; here it stays the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("train", "load") and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
