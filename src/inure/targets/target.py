"""evaluate_target(): what ``inure evaluate`` does: find net, data and threat, evaluate, write, show the table."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..data import ImageSet
from ..data import load as load_images
from ..data.named_sets import NamedSet, corruptions_of, find_sets
from ..evaluation import Workers, evaluate
from ..evaluation.flags import flag
from ..machine import engine
from ..machine.engine import Engine
from ..models import Classifier
from ..models.from_file import source_hash
from ..runs.load import in_mode, load, refuse_mode, usual_mode
from ..runs.run import Run
from ..settings.config import parse_real
from ..settings.errors import UserError
from ..threat import Geometry, describe_threat, parse_threat
from .audited import add_audit, show_audit
from .evaluation_output import repeat_command, show, title_of
from .shifted_output import show_sets
from .shifted_sets import CORRUPTED, SHIFTED, evaluate_sets, split_suite


def evaluate_target(
    target: str,
    *,
    suite: str | None = None,
    shifts: Sequence[str] = (),
    data: str | None = None,
    examples: int | None = None,
    threat: str | None = None,
    mode: str | None = None,
    weights: Path | None = None,
    transfer_from: Sequence[str] = (),
    out: Path | None = None,
    resume: bool = False,
    audit: bool = False,
    store_adversarial: bool = False,
    batch_size: int = 128,
    seed: int = 0,
    search_precision: str = "float32",
    channels_last: bool = False,
    device: str = "auto",
    devices: int = 1,
    quiet: bool = False,
) -> tuple[Path, dict[str, Any]]:
    """Evaluate a run directory or ``file.py:function``; see ``inure evaluate --help`` for the arguments.

    Returns:
        The folder of the results and the summary.

    Raises:
        UserError: If something that a function needs is missing (threat, data, out), or does not fit.
    """
    found = open_target(target, threat, mode, weights)
    # The attacks' own names have hyphens
    suite = (suite or (found.run.recipe().evaluation.suite if found.run else "quick")).replace("-", "_")
    images, sets = _images_of(found, suite, shifts, data, examples)
    if sets and audit:
        raise UserError("--audit", f"with --suite {suite}", "a suite of attacks on one set of images", "--suite quick")
    folder = results_folder(found, suite, out)
    sources = {path: _source(path) for path in transfer_from}
    fabric = _start(device, devices)
    command = repeat_command(
        target,
        {
            "suite": suite, "threat": describe_threat(found.threat), "mode": found.mode, "seed": seed, "data": data,
            "examples": examples, "weights": weights, "shift": shifts, "transfer_from": transfer_from,
            "search_precision": search_precision if search_precision != "float32" else None,
            "channels_last": channels_last, "store_adversarial": store_adversarial, "audit": audit,
            "out": out,
        },
    )  # fmt: skip
    shared: dict[str, Any] = {
        "threat": found.threat, "seed": seed, "batch_size": batch_size, "mode": found.mix, "device": fabric.device,
        "quiet": quiet,
    }  # fmt: skip
    search: dict[str, Any] = {
        "sources": sources, "search_precision": search_precision, "channels_last": channels_last,
        "store_adversarial": store_adversarial, "source_hash": source_hash(target),
        "class_counts": found.class_counts, "groups": found.run.recipe().evaluation.groups if found.run else None,
    }  # fmt: skip
    options: dict[str, Any] = {
        **shared, "suite": suite, "out": folder, "resume": resume, "command": command,
        "workers": Workers(fabric.global_rank, fabric.world_size, fabric.barrier),
    }  # fmt: skip
    if sets:
        doubts = partial(_flags, found.run)
        summary = evaluate_sets(
            found.classifier, images, sets, shape=found.shape, doubts=doubts, search=search, **options
        )  # fmt: skip
    else:
        assert images is not None
        flags = _flags(found.run, images)
        summary = evaluate(found.classifier, images, flags=flags, **search, **options).summary
        if audit and fabric.is_global_zero:
            summary = add_audit(folder, summary, found.classifier, images, sources=sources, **shared)
    if not quiet and fabric.is_global_zero:
        if audit:
            show_audit(folder)
        (show_sets if sets else show)(summary, title=title_of(target, summary))
    fabric.barrier()
    return folder, summary


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


def _source(path: str) -> Classifier:
    try:
        return in_mode(load(path))
    except UserError as error:
        raise error.at("--transfer-from") from None


def results_folder(target: Target, suite: str, out: Path | None) -> Path:
    """``--out``, or a folder in the run.

    Raises:
        UserError: If neither is there, or it is a file or a run.
    """
    name = suite if target.mode == target.usual else f"{suite}-{target.mode}"
    folder = out or (target.run.path / "evaluations" / name if target.run else None)
    if folder is None:
        raise UserError("--out", "nothing", "a folder for the results of file.py:function", "--out results")
    if folder.exists() and not folder.is_dir():
        raise UserError("--out", str(folder), "a folder")
    if (folder / "recipe.yaml").exists():
        raise UserError("--out", f"{folder}, a run", "a folder of its own", f"--out {folder / 'evaluations' / suite}")
    return folder


def _images_of(
    target: Target, suite: str, shifts: Sequence[str], data: str | None, examples: int | None
) -> tuple[ImageSet | None, list[NamedSet]]:
    """The images as they are, and the sets of a suite of sets; ``shifts`` has the first only with ``--data``."""
    family = split_suite(suite)[0]
    if shifts and family != SHIFTED:
        raise UserError("--shift", shifts[0], f"sets for --suite {SHIFTED}", f"--suite {SHIFTED}")
    if family == SHIFTED and not shifts:
        allowed = "one set or more, as digits#test@fog:3, 'digits#test@*' or imagenet-r:DIR"
        raise UserError("--shift", "nothing", allowed, "--shift SPEC")
    images = None
    if family != SHIFTED or data is not None:
        images = find_images(target.run, target.classifier, data).head(examples)
    if family == CORRUPTED:
        assert images is not None
        return images, corruptions_of(images)
    return images, find_sets(shifts, img_size=target.img_size, contrast=target.contrast, examples=examples)


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


def _flags(run: Run | None, images: ImageSet) -> list[dict[str, str]]:
    """Images that the net was trained on prove nothing."""
    if run is None or run.info()["data"]["hash"] != images.hash:
        return []
    detail = f"{images.name} is what the net was trained on; give other images with --data or data.test"
    return [flag("training_images", detail)]


def _start(device: str, devices: int) -> Any:
    try:
        return engine.start(Engine(accelerator=device, devices=devices))  # type: ignore[arg-type]
    except UserError as error:
        raise error.at("--devices" if "devices" in error.setting else "--device") from None


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
