"""Classifiers, images in [0, 1] to logits: small nets of our own, timm's by name, yours by file."""

from .build import build, catalogue
from .classifier import Classifier, Mix
from .modes import AttackMode, attack_mode, frozen
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
