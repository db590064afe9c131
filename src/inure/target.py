"""evaluate_target(): what ``inure evaluate`` does: find net, data and threat, evaluate, write, show the table."""

import shlex
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape

from . import engine
from .averaging.soup import describe_mix
from .config import parse_real
from .console import percent, stderr, table, with_interval
from .data import ImageSet
from .data import load as load_images
from .engine import Engine
from .errors import UserError
from .evaluation import Workers, evaluate, wilson
from .evaluation.flags import flag
from .load import load, refuse_mode, usual_mode
from .models import Classifier
from .run import Run
from .threat import Geometry, describe_threat, parse_threat


def evaluate_target(
    target: str,
    *,
    suite: str | None = None,
    data: str | None = None,
    examples: int | None = None,
    threat: str | None = None,
    mode: str | None = None,
    weights: Path | None = None,
    out: Path | None = None,
    resume: bool = False,
    batch_size: int = 128,
    seed: int = 0,
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
    run = None if ".py:" in target else Run.open(Path(target), "TARGET")
    geometry = find_threat(run, threat)
    classifier = load(target, weights)
    usual = usual_mode(classifier)
    mode = mode or usual
    mix = parse_mode(mode)
    refuse_mode(classifier, mix)
    suite = suite or (run.recipe().evaluation.suite if run else "quick")
    images = find_images(run, classifier, data)
    if examples is not None:
        images = images.head(examples)
    name = suite if mode == usual else f"{suite}-{mode}"
    folder = out or (run.path / "evaluations" / name if run else None)
    if folder is None:
        raise UserError("--out", "nothing", "a folder for the results of file.py:function", "--out results")
    if folder.exists() and not folder.is_dir():
        raise UserError("--out", str(folder), "a folder")
    if (folder / "recipe.yaml").exists():
        raise UserError("--out", f"{folder}, a run", "a folder of its own", f"--out {folder / 'evaluations' / suite}")
    fabric = _start(device, devices)
    workers = Workers(fabric.global_rank, fabric.world_size, fabric.barrier)
    result = evaluate(
        classifier, images, suite=suite, threat=geometry, seed=seed, batch_size=batch_size, mode=mix,
        device=fabric.device, out=folder, resume=resume, workers=workers,
        flags=_flags(run, images), quiet=quiet,
        command=repeat_command(target, suite, geometry, mode, seed, data, examples, weights, out),
    )  # fmt: skip
    if not quiet and fabric.is_global_zero:
        show(result.summary, title=_title(target, result.summary))
    return folder, result.summary


def _title(target: str, summary: dict[str, Any]) -> str:
    mode = summary["mode"]
    text = describe_mix(mode) if isinstance(mode, dict) else mode
    return f"{target}{f', mode {text},' if text else ''} under {summary['threat']}"


def repeat_command(
    target: str, suite: str, threat: Geometry, mode: str | None, seed: int, data: str | None, examples: int | None,
    weights: Path | None, out: Path | None,
) -> str:  # fmt: skip
    """The command line that repeats an evaluation."""
    options = {
        "suite": suite, "threat": describe_threat(threat), "mode": mode, "seed": seed, "data": data,
        "examples": examples, "weights": weights, "out": out,
    }  # fmt: skip
    words = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return shlex.join(["inure", "evaluate", target, *words])


def show(summary: dict[str, Any], title: str) -> None:
    """The table of an evaluation, on stderr."""
    total = summary["examples"]
    rows = [["clean", with_interval(summary["clean_accuracy"], summary["interval95"]["clean"]), "-", "-", "-"]]
    for attack in summary["attacks"]:
        share = attack["robust_accuracy"]
        interval = wilson(round(share * total), total)
        cost = [f"{attack['forwards']:,}", f"{attack['backwards']:,}", f"{attack['seconds']:.1f}"]
        rows.append([f"after {attack['name']}", with_interval(share, interval), *cost])
    columns = ["", "accuracy [95 %]", "forwards", "backwards", "seconds"]
    console = stderr()
    console.print(table(escape(title), columns, rows))
    if summary["robust_accuracy"] is not None:
        console.print(
            f"robust accuracy {percent(summary['robust_accuracy'])} of {total} examples (worst case over the attacks)"
        )
    for raised in summary["flags"]:
        console.print(f"warning: {raised['name']} ({raised['severity']}): {raised['detail']}", markup=False)
    if not summary["verified"]:
        console.print("unverified: a severe flag was raised (docs: How to read a robustness number)", markup=False)


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
    size = run.recipe().model.img_size if run else None
    if data is not None:
        images = load_images(data, "test", img_size=size, setting="--data")
    elif run is not None:
        images = run.recipe().data.load_test(size)
    else:
        raise UserError("--data", "nothing", "a data set, required for file.py:function", "--data digits")
    if run is not None and (expected := tuple(run.info()["input_shape"])) != images.shape:
        raise UserError("--data", f"images of {images.shape}", f"{expected}, the net's input", "model.img_size")
    return images


def device_of(name: str) -> torch.device:
    """``auto`` and the others as a device."""
    return torch.device(engine.accelerator_of(Engine(accelerator=name)))  # type: ignore[arg-type]
