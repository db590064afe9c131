"""Classifiers, images in [0, 1] to logits: small nets of our own, timm's by name, yours by file."""

from typing import TYPE_CHECKING

from ..libraries import later

if TYPE_CHECKING:
    from .classifier import Classifier, Mix
    from .construction import build
    from .modes import AttackMode, attack_mode, frozen
    from .own import catalogue
    from .settings import Model
    from .weights import load_target, load_weights, read_weights

__all__ = [
    "AttackMode",
    "Classifier",
    "Mix",
    "Model",
    "attack_mode",
    "build",
    "catalogue",
    "frozen",
    "load_target",
    "load_weights",
    "read_weights",
]
__getattr__, __dir__ = later(
    __name__,
    {
        "AttackMode": "modes",
        "Classifier": "classifier",
        "Mix": "classifier",
        "Model": "settings",
        "attack_mode": "modes",
        "build": "construction",
        "catalogue": "own",
        "frozen": "modes",
        "load_target": "weights",
        "load_weights": "weights",
        "read_weights": "weights",
    },
)
