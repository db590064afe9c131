"""load(): a classifier from a run directory or from a function of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..libraries import torch
from ..settings.errors import UserError
from .run import Run

if TYPE_CHECKING:
    from ..models import Classifier


def load(target: str | Path, weights: str | Path | None = None, mode: Any = None) -> Classifier:
    """The net of a run directory, or of ``path/to/file.py:function``, in eval mode on the CPU.

    Args:
        target: A run directory, or a function that returns an ``nn.Module`` taking images in [0, 1].
        weights: A .pt or .safetensors file loaded into the net; a run's own ``weights.safetensors`` by default.
        mode: A domain, or weights by name: the net is folded, and knows no domains any more.

    Raises:
        UserError: If the target does not exist or the weights do not fit.
    """
    from ..models import load_target

    if ".py:" in str(target):
        classifier = load_target(str(target), None if weights is None else str(weights))
    else:
        classifier = _load_run(Path(target), weights)
    return classifier.eval() if mode is None else in_mode(classifier, mode).eval()


def in_mode(classifier: Classifier, mode: Any = None) -> Classifier:
    """The net folded for ``mode``, or for the usual one.

    Raises:
        UserError: As ``refuse_mode``.
    """
    from ..models.adapt import fold

    mode = mode if mode is not None else usual_mode(classifier)
    refuse_mode(classifier, mode)
    return fold(classifier, mode)


def usual_mode(classifier: Classifier) -> str | None:
    """What is meant where no mode is given: the domain of attacked images if there is one."""
    return classifier.mixture.usual if classifier.mixture is not None else None


def refuse_mode(classifier: Classifier, mode: Any) -> None:
    """Say what is wrong with a mode, before anything is computed.

    Raises:
        UserError: If the net has no domains, not these, or the weights do not sum to 1.
    """
    if mode is None:
        return
    if classifier.mixture is None:
        raise UserError("--mode", mode, "no mode: this net has no domains (model.adapters is null)")
    try:
        classifier.mixture.parse(mode, 1)
    except UserError as error:
        raise error.at("--mode") from None


def _load_run(path: Path, weights: str | Path | None) -> Classifier:
    from ..models import build, load_weights, read_weights

    run = Run.open(path, "TARGET")
    recipe, info = run.recipe(), run.info()
    if "num_classes" not in info:
        raise UserError("TARGET", str(path), "a run that has begun to train", f"inure train ... --out {path} --resume")
    channels, height, width = info["input_shape"]
    shape = (channels, height, width)
    with torch.random.fork_rng(devices=[]):
        classifier = build(recipe.model, num_classes=info["num_classes"], shape=shape, with_weights=False)
    source = Path(weights) if weights is not None else run.weights
    if weights is None and not source.exists():
        last = run.checkpoints / "last.safetensors"
        if not last.exists():
            raise UserError("TARGET", str(path), "a run with weights", f"inure train ... --out {path} --resume")
        source = last
    load_weights(classifier, read_weights(source), str(source))
    if classifier.mixture is not None:
        classifier.mixture.usual = getattr(recipe.method, "robust", None)
    return classifier
