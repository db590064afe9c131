"""evaluate_target(): what ``inure evaluate`` does: find net, data and threat, evaluate, write, show the table."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..data import ImageSet
from ..data.named_sets import NamedSet, corruptions_of, find_sets
from ..evaluation import Conditions, Workers, evaluate_under
from ..evaluation.flags import flag
from ..machine import engine
from ..machine.engine import Engine
from ..models import Classifier
from ..models.from_file import source_hash
from ..runs.load import in_mode, load
from ..runs.run import Run
from ..settings.errors import UserError
from ..threat import describe_threat
from .audited import add_audit, show_audit
from .evaluation_output import show, title_of
from .request import Request
from .set_suites import CORRUPTED, SHIFTED, split_suite
from .shifted_output import show_sets
from .shifted_sets import evaluate_sets
from .target import Target, find_images, open_target


def evaluate_target(request: Request) -> tuple[Path, dict[str, Any]]:
    """Evaluate a run directory or ``file.py:function``.

    Returns:
        The folder of the results and the summary.

    Raises:
        UserError: If something that a function needs is missing (threat, data, out), or does not fit.
    """
    found = open_target(request.target, request.threat, request.mode, request.weights)
    # The attacks' own names have hyphens
    suite = (request.suite or (found.run.recipe().evaluation.suite if found.run else "quick")).replace("-", "_")
    images, sets = _images_of(found, suite, request)
    if sets and request.audit:
        raise UserError("--audit", f"with --suite {suite}", "a suite of attacks on one set of images", "--suite quick")
    folder = results_folder(found, suite, request.out)
    sources = {path: _source(path) for path in request.transfer_from}
    fabric = _start(request.device, request.devices)
    settled = replace(request, suite=suite, threat=describe_threat(found.threat), mode=found.mode)
    conditions = Conditions(
        suite=split_suite(suite)[1],
        threat=found.threat,
        seed=request.seed,
        batch_size=request.batch_size,
        mode=found.mix,
        device=fabric.device,
        out=folder,
        resume=request.resume,
        workers=Workers(fabric.global_rank, fabric.world_size, fabric.barrier),
        sources=sources,
        search_precision=request.search_precision,
        channels_last=request.channels_last,
        store_adversarial=request.store_adversarial,
        source_hash=source_hash(request.target),
        class_counts=found.class_counts,
        groups=found.run.recipe().evaluation.groups if found.run else None,
        command=settled.command(),
        quiet=request.quiet,
    )
    doubts = partial(_flags, found.run)
    if sets:
        summary = evaluate_sets(conditions, found.classifier, images, sets, suite, shape=found.shape, doubts=doubts)
    else:
        assert images is not None
        summary = evaluate_under(conditions, found.classifier, images, flags=doubts(images)).summary
        if request.audit and conditions.writes:
            summary = add_audit(conditions, summary, found.classifier, images)
    if not request.quiet and conditions.writes:
        if request.audit:
            show_audit(folder)
        (show_sets if sets else show)(summary, title=title_of(request.target, summary))
    fabric.barrier()
    return folder, summary


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


def _images_of(target: Target, suite: str, request: Request) -> tuple[ImageSet | None, list[NamedSet]]:
    """The images as they are, and the sets of a suite of sets; ``shifts`` has the first only with ``--data``."""
    family, shifts, examples = split_suite(suite)[0], request.shift, request.examples
    if shifts and family != SHIFTED:
        raise UserError("--shift", shifts[0], f"sets for --suite {SHIFTED}", f"--suite {SHIFTED}")
    if family == SHIFTED and not shifts:
        allowed = "one set or more, as digits#test@fog:3, 'digits#test@*' or imagenet-r:DIR"
        raise UserError("--shift", "nothing", allowed, "--shift SPEC")
    images = None
    if family != SHIFTED or request.data is not None:
        images = find_images(target.run, target.classifier, request.data).head(examples)
    if family == CORRUPTED:
        assert images is not None
        return images, corruptions_of(images)
    return images, find_sets(shifts, img_size=target.img_size, contrast=target.contrast, examples=examples)


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
