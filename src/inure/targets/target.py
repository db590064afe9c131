"""Target: a run directory or a function of yours, as net, images, threat model and mode."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import ImageSet
from ..data import load as load_images
from ..libraries import torch
from ..machine import engine
from ..machine.engine import Engine
from ..runs.load import load, refuse_mode, usual_mode
from ..runs.run import Run
from ..settings.config import parse_real
from ..settings.errors import UserError
from ..threat import Geometry, parse_threat

if TYPE_CHECKING:
    from ..models import Classifier


@dataclass(frozen=True)
class Target:
    """What is evaluated, and how."""

    run: Run | None
    classifier: Classifier
    threat: Geometry
    mode: str | None
    """As on the command line; the usual one where none is given."""
    usual: str | None

    @property
    def mix(self) -> Any:
        """The mode as a name or weights by name."""
        return parse_mode(self.mode)

    @property
    def img_size(self) -> int | None:
        """Pixels to which a run's images are resized."""
        return self.run.recipe().model.img_size if self.run else None

    @property
    def contrast(self) -> float:
        """How far a run's images are shrunk around mid grey."""
        return self.run.recipe().data.contrast if self.run else 1.0

    @property
    def class_counts(self) -> list[int] | None:
        """Training images of a run's classes, by their true labels; None if the run does not know."""
        data = self.run.info().get("data", {}) if self.run else {}
        return data.get("true_class_counts", data.get("class_counts"))

    @property
    def shape(self) -> tuple[int, ...] | None:
        """(C, H, W) of a run's images."""
        return tuple(self.run.info()["input_shape"]) if self.run else None


def open_target(target: str, threat: str | None, mode: str | None, weights: Path | None) -> Target:
    """The net of a run directory or of ``file.py:function``, with the threat model and the mode meant.

    Raises:
        UserError: If it is not there, or threat or mode are missing or do not fit.
    """
    run = None if ".py:" in target else Run.open(Path(target), "TARGET")
    geometry = find_threat(run, threat)
    classifier = load(target, weights)
    usual = usual_mode(classifier)
    found = Target(run, classifier, geometry, mode or usual, usual)
    refuse_mode(classifier, found.mix)
    return found


def parse_mode(text: str | None) -> Any:
    """``robust`` as a name, ``clean=0.3,robust=0.7`` as weights."""
    if text is None or "=" not in text:
        return text
    weights = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            weights[name.strip()] = float(parse_real(value))
        except UserError as error:
            raise error.at("--mode") from None
    return weights


def find_threat(run: Run | None, text: str | None) -> Geometry:
    """``--threat``, or the recipe's."""
    if text is not None:
        return parse_threat(text)
    if run is None:
        raise UserError("--threat", "nothing", "KIND:EPSILON, required for file.py:function", "--threat linf:8/255")
    return run.recipe().evaluation.threat


def find_images(run: Run | None, classifier: Classifier, data: str | None) -> ImageSet:
    """``--data``, or the run's test images."""
    recipe = run.recipe() if run else None
    size, contrast = (recipe.model.img_size, recipe.data.contrast) if recipe else (None, 1.0)
    if data is not None:
        images = load_images(data, "test", img_size=size, contrast=contrast, setting="--data")
    elif recipe is not None:
        images = recipe.data.load_test(size)
    else:
        raise UserError("--data", "nothing", "a data set, required for file.py:function", "--data digits")
    if run is not None and (expected := tuple(run.info()["input_shape"])) != images.shape:
        raise UserError("--data", f"images of {images.shape}", f"{expected}, the net's input", "model.img_size")
    return images


def device_of(name: str) -> torch.device:
    """``auto`` and the others as a device."""
    return torch.device(engine.accelerator_of(Engine(accelerator=name)))  # type: ignore[arg-type]
