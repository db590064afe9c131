"""make_soup(): what ``inure soup`` does: sweep the mixes of a run's domains, choose some, write table and figure."""

import io
from pathlib import Path
from typing import Any

import torch

from . import files
from .averaging.soup import (
    GRID,
    Point,
    affine_grid,
    choose,
    choose_by_shots,
    describe_mix,
    few_shot_curve,
    pareto_front,
)
from .console import Bars, markdown, percent, stderr, table, with_interval
from .data import load as load_images
from .errors import UserError, unknown_name
from .evaluation import SUITES, weights_hash, wilson
from .evaluation.examples import Examples
from .evaluation.sweep import Sweep, sweep
from .load import load
from .run import Run
from .target import device_of
from .threat import describe_threat, parse_threat

ALWAYS = ("robust", "clean", "mean", "knee")
_SIZES = (10, 30, 100, 300, 500)


def make_soup(
    target: str | Path,
    *,
    grid: str = GRID,
    suite: str = "pgd20",
    data: str | None = None,
    examples: int | None = None,
    threat: str | None = None,
    rule: str | None = None,
    few_shot: int | None = None,
    out: Path | None = None,
    batch_size: int = 256,
    seed: int = 0,
    device: str = "auto",
    quiet: bool = False,
) -> tuple[Path, dict[str, Any]]:
    """Sweep the soups of a run; see ``inure soup --help`` for the arguments.

    Returns:
        The folder of the results, and what ``soup.json`` holds.

    Raises:
        UserError: If the run has no domains, or a setting does not fit.
    """
    run = Run.open(Path(target), "RUN")
    recipe = run.recipe()
    if suite not in SUITES:
        raise unknown_name("--suite", suite, SUITES)
    geometry = parse_threat(threat) if threat else recipe.evaluation.threat
    classifier = load(target)
    if not classifier.domains:
        raise UserError("RUN", str(target), "a run whose net has domains", "model.adapters=cls_token in training")
    mixes = affine_grid(classifier.domains, grid)
    img_size = recipe.model.img_size
    if data is not None:
        images = load_images(data, "test", img_size=img_size, setting="--data")
    else:
        images = recipe.data.load_training(img_size)[1]
    images = images.head(examples) if examples is not None else images
    if few_shot is not None and not 1 <= few_shot < len(images):
        raise UserError("--few-shot", few_shot, f"1 to {len(images) - 1}: some of {len(images)} images must be left")
    folder = out or run.path / "soups" / (f"{suite}-{_slug(data)}" if data else suite)
    folder.mkdir(parents=True, exist_ok=True)
    with Bars(quiet=quiet) as bars:
        found = sweep(
            classifier, Examples.of(images, None), mixes, SUITES[suite](geometry), threat=geometry, seed=seed,
            batch_size=batch_size, device=device_of(device), advance=bars.attack,
        )  # fmt: skip
    points = points_of(found)
    rules = [*ALWAYS, *([rule] if rule and rule not in ALWAYS else [])]
    chosen = {name: choose(points, name) for name in rules}
    protocol = {
        "suite": suite, "threat": describe_threat(geometry), "grid": grid, "seed": seed, "examples": len(images),
        "data": images.name if data else f"{images.name} (validation split)", "data_hash": images.hash,
        "weights_hash": weights_hash(classifier), "precision": "float32",
        "note": "adversarial images of neighbouring soups are tried before an attack",
    }  # fmt: skip
    result = {
        "soups": [_entry(point, len(images)) for point in points],
        "pareto": [describe_mix(points[i].mix) for i in pareto_front(points)],
        "chosen": {name: describe_mix(points[i].mix) for name, i in chosen.items()},
        "few_shot": _few_shot(found, few_shot, seed) if few_shot else None,
        "forwards": found.forwards, "backwards": found.backwards, "borrowed": found.borrowed,
        "seconds": found.seconds, "protocol": protocol,
    }  # fmt: skip
    _write(folder, result, points, chosen, classifier.domains)
    if not quiet:
        _show(result, chosen, points, run.path, len(images))
    return folder, result


def points_of(found: Sweep) -> list[Point]:
    """Accuracies of every mix."""
    rates = (found.clean.double().mean(1).tolist(), found.robust.double().mean(1).tolist())
    return [Point(mix, clean, robust) for mix, clean, robust in zip(found.mixes, *rates, strict=True)]


def _few_shot(found: Sweep, shots: int, seed: int) -> dict[str, Any]:
    """The soup that a few labelled images choose, and its accuracy on the others."""
    order = torch.randperm(found.clean.shape[1], generator=torch.Generator().manual_seed(seed))
    place, rest = choose_by_shots(found.clean, found.mixes, order[:shots]), order[shots:]
    right = int(found.clean[place, rest].sum())
    ends = {
        name: float(found.clean[g, rest].double().mean())
        for g, mix in enumerate(found.mixes)
        for name, weight in mix.items()
        if weight == 1 and not any(w for n, w in mix.items() if n != name)
    }
    curve = few_shot_curve(found.clean, found.mixes, _SIZES, seed=seed)
    return {
        "shots": shots, "mix": describe_mix(found.mixes[place]), "accuracy": right / len(rest),
        "interval95": wilson(right, len(rest)), "examples": len(rest), "domains_alone": ends,
        "curve": [{"shots": k, "mean": mean, "deviation": deviation} for k, mean, deviation in curve],
    }  # fmt: skip


def _entry(point: Point, total: int) -> dict[str, Any]:
    intervals = {
        name: wilson(round(share * total), total) for name, share in (("clean", point.clean), ("robust", point.robust))
    }
    return {
        "mix": describe_mix(point.mix), "weights": point.mix, "clean_accuracy": point.clean,
        "robust_accuracy": point.robust, "interval95": intervals,
    }  # fmt: skip


_HEADER = ["soup", "clean [95 %]", "robust [95 %]", "chosen as"]


def _rows(result: dict[str, Any], chosen: dict[str, int]) -> list[list[str]]:
    return [
        [
            entry["mix"],
            with_interval(entry["clean_accuracy"], entry["interval95"]["clean"]),
            with_interval(entry["robust_accuracy"], entry["interval95"]["robust"]),
            ", ".join(name for name, place in chosen.items() if place == number),
        ]
        for number, entry in enumerate(result["soups"])
    ]


def _write(
    folder: Path, result: dict[str, Any], points: list[Point], chosen: dict[str, int], domains: tuple[str, ...]
) -> None:
    files.write_text(folder / "table.md", markdown(_HEADER, _rows(result, chosen)))
    files.write_bytes(folder / "figure.png", figure(points, domains, result["protocol"]))
    files.write_json(folder / "soup.json", result)


def _show(result: dict[str, Any], chosen: dict[str, int], points: list[Point], run: Path, total: int) -> None:
    console = stderr()
    protocol = result["protocol"]
    title = f"{total} images of {protocol['data']}, {protocol['suite']} under {protocol['threat']}"
    rows = _rows(result, chosen)
    console.print(table(title, _HEADER, rows if len(rows) <= 40 else [rows[i] for i in sorted({*chosen.values()})]))
    shots = result["few_shot"]
    if shots:
        low, high = shots["interval95"]
        ends = ", ".join(f"{name} {percent(value)}" for name, value in shots["domains_alone"].items())
        console.print(
            f"chosen by {shots['shots']} labelled images: {shots['mix']}, {percent(shots['accuracy'])} "
            f"[{100 * low:.1f}, {100 * high:.1f}] on the other {shots['examples']} ({ends})",
            markup=False, soft_wrap=True,
        )  # fmt: skip
    best = points[chosen["mean"]]
    console.print(f"inure evaluate {run} --mode {describe_mix(best.mix)}", markup=False, soft_wrap=True)


def figure(points: list[Point], domains: tuple[str, ...], protocol: dict[str, Any]) -> bytes:
    """Two domains: both accuracies along the dial. More: one against the other, with the front."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7, 4), layout="constrained")
    axes = drawing.subplots()
    clean, robust = ([100 * getattr(p, name) for p in points] for name in ("clean", "robust"))
    if len(domains) == 2:
        weights = [p.mix[domains[1]] for p in points]
        axes.axvspan(0, 1, color="0.94", zorder=0)
        axes.plot(weights, clean, "o-", color="#4477aa", label="clean accuracy", markersize=4)
        axes.plot(weights, robust, "o-", color="#cc6677", label="robust accuracy", markersize=4)
        axes.set_xlabel(f"weight of {domains[1]} (grey: between {domains[0]} and {domains[1]}; beyond: extrapolated)")
        axes.set_ylabel("accuracy, %")
        axes.set_ylim(0, 102)
        axes.legend(frameon=False, loc="lower center")
    else:
        front = pareto_front(points)
        axes.plot(clean, robust, "o", color="0.7", markersize=3, label="soups")
        axes.plot([clean[i] for i in front], [robust[i] for i in front], "o-", color="#cc6677", label="Pareto front")
        axes.set_xlabel("clean accuracy, %")
        axes.set_ylabel("robust accuracy, %")
        axes.legend(frameon=False)
    axes.set_title(f"{protocol['suite']} under {protocol['threat']}, {protocol['examples']} images", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in text).strip("_")[-60:]
