"""make_soup(): what ``inure soup`` does: sweep the mixes of a net or of several, choose some, write the results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..averaging.soup import GRID, Point, Weights, affine_grid, choose, describe_mix, pareto_front
from ..averaging.whole_nets import greedy_members, join
from ..data import ImageSet
from ..data import load as load_images
from ..display.console import Bars
from ..evaluation import SUITES, weights_hash, wilson
from ..evaluation.examples import Examples
from ..evaluation.sweep import Sweep, sweep
from ..libraries import torch
from ..machine import files
from ..models import Classifier
from ..models.adapt import adapter_products
from ..runs.checkpoints import tensor_bytes
from ..runs.load import in_mode, load
from ..runs.run import Run
from ..settings.errors import UserError, unknown_name
from ..targets.target import device_of
from ..threat import Geometry, describe_threat, parse_threat
from .soup_output import show_soup, write_soup
from .soup_shifts import SHOTS, adapt_to_set, adapt_to_shifts, find_shifts

ALWAYS = ("robust", "clean", "mean", "knee")


def make_soup(
    targets: str | Path | Sequence[str | Path],
    *,
    grid: str = GRID,
    suite: str = "pgd20",
    data: str | None = None,
    examples: int | None = None,
    threat: str | None = None,
    rule: str | None = None,
    few_shot: int | None = None,
    shifts: Sequence[str] = (),
    against: str | None = None,
    out: Path | None = None,
    batch_size: int = 256,
    seed: int = 0,
    device: str = "auto",
    quiet: bool = False,
) -> tuple[Path, dict[str, Any]]:
    """Sweep the soups of a run, or of several; see ``inure soup --help`` for the arguments.

    Returns:
        The folder of the results, and what ``soup.json`` holds.

    Raises:
        UserError: If there is nothing to mix, or a setting does not fit.
    """
    paths = [Path(targets)] if isinstance(targets, str | Path) else [Path(target) for target in targets]
    runs = [Run.open(path, "RUN") for path in paths]
    recipe = runs[0].recipe()
    if suite not in SUITES:
        raise unknown_name("--suite", suite, SUITES)
    if against is not None and not shifts:
        raise UserError("--against", against, "a run, together with --shift", "--shift SPEC")
    geometry = parse_threat(threat) if threat else recipe.evaluation.threat
    classifier = _classifier(runs)
    mixes = affine_grid(classifier.domains, grid)
    images = _images(runs, data, examples)
    if few_shot is not None and not shifts and not 1 <= few_shot < len(images):
        raise UserError("--few-shot", few_shot, f"1 to {len(images) - 1}: some of {len(images)} images must be left")
    found_shifts = find_shifts(
        shifts, recipe.model.img_size, examples, few_shot or SHOTS, contrast=recipe.data.contrast
    )
    folder = out or runs[0].path / "soups" / _name(suite, data, len(runs))
    files.make_folder(folder)
    place = device_of(device)
    with Bars(quiet=quiet) as bars:
        bench = Bench(classifier, images, geometry, suite, seed, batch_size, place, bars)
        found = bench.sweep(mixes)
        points = points_of(found)
        rules = [*ALWAYS, *([rule] if rule and rule not in ALWAYS else [])]
        chosen = {name: points[choose(points, name)].mix for name in rules}
        if len(runs) > 1:
            chosen |= {"uniform": _equal(classifier.domains), "greedy": bench.greedy()}
        adapted = None
        if few_shot and not shifts:
            adapted = adapt_to_set(
                bench.classifier, images, found, few_shot, seed=seed, batch_size=batch_size, device=place
            )
        shifted = None
        if found_shifts:
            baseline = None if against is None else in_mode(load(against))
            shifted = adapt_to_shifts(
                classifier, found_shifts, mixes, few_shot or SHOTS, baseline=baseline, seed=seed,
                batch_size=batch_size, device=place, bars=bars,
            )  # fmt: skip
    every = points + [bench.point(mix) for mix in chosen.values() if mix not in mixes]
    norms = relative_norms(classifier, [point.mix for point in every])
    result = {
        "soups": [_entry(point, len(images), norm) for point, norm in zip(every, norms, strict=True)],
        "pareto": [describe_mix(points[i].mix) for i in pareto_front(points)],
        "chosen": {name: describe_mix(mix) for name, mix in chosen.items()},
        "few_shot": adapted, "shifts": shifted,
        "forwards": bench.forwards, "backwards": bench.backwards, "borrowed": found.borrowed,
        "seconds": found.seconds, "protocol": bench.protocol(grid, data, runs),
    }  # fmt: skip
    write_soup(folder, result, points, classifier.domains)
    if len(runs) > 1:
        best = chosen[rule or "mean"]
        state = in_mode(classifier, best).state_dict()
        files.write_bytes(folder / "weights.safetensors", tensor_bytes(state, mode=json.dumps(best)))
    if not quiet:
        show_soup(result, runs[0].path, rule or "mean", folder if len(runs) > 1 else None)
    return folder, result


class Bench:
    """Where mixes of one net are measured on one set of images."""

    def __init__(
        self, classifier: Classifier, images: ImageSet, threat: Geometry, suite: str, seed: int, batch_size: int,
        device: torch.device, bars: Bars,
    ) -> None:  # fmt: skip
        self.classifier, self.images = classifier.read_as(images.readout), images
        self.threat, self.suite = threat, suite
        self.seed, self.batch_size, self.device, self.bars = seed, batch_size, device, bars
        self.forwards = self.backwards = 0
        self._known: dict[str, Point] = {}

    def sweep(self, mixes: Sequence[Weights]) -> Sweep:
        """Clean and attacked."""
        found = sweep(
            self.classifier, Examples.of(self.images, None), mixes, SUITES[self.suite](self.threat),
            threat=self.threat, seed=self.seed, batch_size=self.batch_size, device=self.device,
            advance=self.bars.attack,
        )  # fmt: skip
        self.forwards += found.forwards
        self.backwards += found.backwards
        self._known |= {describe_mix(point.mix): point for point in points_of(found)}
        return found

    def point(self, mix: Weights) -> Point:
        """A mix and its accuracies, measured once."""
        name = describe_mix(mix)
        if name not in self._known:
            self.sweep([mix])
        return self._known[name]

    def greedy(self) -> Weights:
        """The greedy soup of the domains: by robust accuracy, or by clean accuracy where nothing attacks."""
        domains = self.classifier.domains

        def score(members: Sequence[int]) -> float:
            point = self.point(_equal([domains[i] for i in members], domains))
            return point.robust if SUITES[self.suite](self.threat) else point.clean

        return _equal([domains[i] for i in greedy_members(len(domains), score)], domains)

    def protocol(self, grid: str, data: str | None, runs: Sequence[Run]) -> dict[str, Any]:
        """What decides the numbers."""
        images = self.images
        return {
            "suite": self.suite, "threat": describe_threat(self.threat), "grid": grid, "seed": self.seed,
            "examples": len(images), "data": images.name if data else f"{images.name} (validation split)",
            "data_hash": images.hash, "weights_hash": weights_hash(self.classifier), "precision": "float32",
            "runs": [str(run.path) for run in runs],
            "note": "adversarial images of neighbouring soups are tried before an attack",
        }  # fmt: skip


def relative_norms(classifier: Classifier, mixes: Sequence[Weights]) -> list[float]:
    """Norm of each mix's adapters over the largest of the domains alone; far above 1 training never was there."""
    products = adapter_products(classifier).cpu()
    largest = float(products.diagonal().max().sqrt().clamp_min(1e-12))
    rows = torch.tensor([[mix.get(name, 0.0) for name in classifier.domains] for mix in mixes], dtype=torch.float64)
    return (((rows @ products) * rows).sum(1).clamp_min(0).sqrt() / largest).tolist()


def points_of(found: Sweep) -> list[Point]:
    """Accuracies of every mix."""
    rates = (found.clean.double().mean(1).tolist(), found.robust.double().mean(1).tolist())
    return [Point(mix, clean, robust) for mix, clean, robust in zip(found.mixes, *rates, strict=True)]


def _classifier(runs: Sequence[Run]) -> Classifier:
    """A net with domains: a run's own, or one domain for each of several runs."""
    if len(runs) > 1:
        return join({name: load(run.path) for name, run in zip(_names(runs), runs, strict=True)})
    classifier = load(runs[0].path)
    if not classifier.domains:
        allowed = "a run whose net has domains, or several runs with a common ancestor"
        raise UserError("RUN", str(runs[0].path), allowed, "model.adapters=cls_token in training")
    return classifier


def _names(runs: Sequence[Run]) -> list[str]:
    """Names of folders, with those above them where two are equal."""
    for depth in range(1, 10):
        parts = ["_".join(run.path.resolve().parts[-depth:]) for run in runs]
        slugs = ["".join(c if c.isalnum() else "_" for c in part) for part in parts]
        names = [slug if slug[0].isalpha() else f"run_{slug}" for slug in slugs]
        if len({*names}) == len(names):
            return names
    raise UserError("RUN", str(runs[0].path), "runs that differ from each other")


def _images(runs: Sequence[Run], data: str | None, examples: int | None) -> ImageSet:
    recipe = runs[0].recipe()
    img_size = recipe.model.img_size
    if data is not None:
        images = load_images(data, "test", img_size=img_size, contrast=recipe.data.contrast, setting="--data")
    elif any(run.recipe().data != recipe.data for run in runs):
        raise UserError("--data", "nothing", "images to choose by: these runs held out different ones", "--data SPEC")
    else:
        images = recipe.data.load_training(img_size)[1]
    return images.head(examples)


def _equal(members: Sequence[str], domains: Sequence[str] = ()) -> Weights:
    """Equal weights of some domains."""
    return {name: 1 / len(members) if name in members else 0.0 for name in domains or members}


def _entry(point: Point, total: int, norm: float) -> dict[str, Any]:
    intervals = {
        name: wilson(round(share * total), total) for name, share in (("clean", point.clean), ("robust", point.robust))
    }
    return {
        "mix": describe_mix(point.mix), "weights": point.mix, "clean_accuracy": point.clean,
        "robust_accuracy": point.robust, "interval95": intervals, "adapter_norm": norm,
    }  # fmt: skip


def _name(suite: str, data: str | None, runs: int) -> str:
    slug = "" if data is None else "-" + "".join(c if c.isalnum() else "_" for c in data).strip("_")[-60:]
    return suite + slug + (f"-of-{runs}-runs" if runs > 1 else "")
