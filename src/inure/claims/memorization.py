"""Exploring memorization in adversarial training (Dong et al., 2022, arXiv:2106.01606): its cure, and random labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..runs.run import Run
from ..types import Scale
from .claim import UNDECIDED, Answer, Claim, Interval, Verdict, above, every, interval_of, of_seeds
from .figures import Curve, curves, dots
from .lab import Lab, Net

_PLAIN = ("penalties=[]",)
_NOISE = ("data.label_noise={kind: symmetric, rate: 0.2}",)
_NO_NOISE = ("data.label_noise=null",)
_GPU = ("epochs=60", "checkpoint.every=3", "engine.precision=bf16")
_NETS: dict[Scale, Net] = {
    "smoke": Net("digits/noisy_labels", ("penalties=[{kind: temporal_ensembling, start: 0.45, end: 0.75}]",)),
    "gpu": Net("cifar10/te_resnet18", _GPU),
    "paper": Net("cifar10/te_resnet18"),
}
"""With temporal ensembling: by the recipe, where it has one."""
_LONG = ("epochs=100", "checkpoint.every=20", "engine.precision=bf16")
RANDOM_LABELS: dict[str, dict[Scale, Net]] = {
    "PGD-AT": {
        "smoke": Net("digits/random_labels"),
        "gpu": Net("cifar10/random_labels_pgd_at_wrn28_10", _LONG),
        "paper": Net("cifar10/random_labels_pgd_at_wrn28_10"),
    },
    "TRADES": {
        "smoke": Net("digits/random_labels", ("method.kind=trades",)),
        "gpu": Net("cifar10/random_labels_trades_wrn28_10", _LONG),
        "paper": Net("cifar10/random_labels_trades_wrn28_10"),
    },
}
SUITES: dict[Scale, str] = {"smoke": "pgd20", "gpu": "pgd20", "paper": "autoattack"}
_FITS = 0.2
"""Training accuracy by which one method must exceed the other."""


class Ends(NamedTuple):
    """Evaluations of one run on the test images: at the best checkpoint (by validation images) and at the last."""

    best: Path
    last: Path


class Found(NamedTuple):
    """What one seed says, by the test images."""

    gap_without: Interval
    """Robust accuracy of PGD-AT, best minus last."""
    gap_with: Interval
    """The same with temporal ensembling."""
    final: Interval
    """Robust accuracy at the end, with temporal ensembling minus without."""
    clean: Interval
    """Clean accuracy at the end, with minus without."""


@dataclass(frozen=True)
class Cure:
    """PGD-AT with and without temporal ensembling, on noisy labels or on the true ones."""

    noise: bool
    control: bool = False
    """Whether it is enough that nothing is lost, with or without a gap to close."""

    def __call__(self, lab: Lab) -> Verdict:
        """Train both with every seed, evaluate best and last, compare."""
        found = [self._of(lab, seed) for seed in lab.seeds]
        conditions = self._conditions(found)
        fails = not self.control and all(one.gap_without.difference < 0.04 for one in found)
        answer = UNDECIDED if fails else every([answer for _, answer in conditions])
        histories = {name: self._history(lab, name) for name in ("PGD-AT", "with temporal ensembling")}
        title = "20 % of the labels are noise" if self.noise else "true labels"
        return Verdict(
            answer,
            f"suite {SUITES[lab.scale]} on the test images; best by validation images; in every seed: "
            + "; ".join(text for text, _ in conditions),
            "there is no robust overfitting to cure"
            if fails
            else "; ".join(f"{text}: {answer}" for text, answer in conditions),
            ["", "PGD-AT, best minus last", "with ensembling", "last, with minus without", "clean, with minus without"],
            [[f"seed {seed}", *(i.text() for i in one)] for seed, one in zip(lab.seeds, found, strict=True)],
            curves({title: histories}, "progress", "robust accuracy on validation images, %"),
            {"differences": [{name: tuple(vars(i).values()) for name, i in one._asdict().items()} for one in found]},
        )

    def _conditions(self, found: Sequence[Found]) -> list[tuple[str, Answer]]:
        closed = ("best minus last with temporal ensembling at most 3 points", _most(found, "gap_with", 0.03))
        if self.control:
            return [closed, ("last with minus without at least -3 points", _least(found, "final", -0.03))]
        conditions = [
            ("best minus last of PGD-AT at least 4 points", _least(found, "gap_without", 0.04)),
            closed,
            ("95 % interval of last with minus without above 0", above([one.final for one in found])),
        ]
        if self.noise:
            conditions += [
                ("last with minus without at least 5 points", _least(found, "final", 0.05)),
                ("clean with at least that without", _least(found, "clean", 0.0)),
            ]
        return conditions

    def _of(self, lab: Lab, seed: int) -> Found:
        without, with_it = (self._ends(lab, name, seed) for name in ("PGD-AT", "with temporal ensembling"))
        robust = {folder: lab.right(folder, "robust") for folder in (*without, *with_it)}
        clean = [lab.right(ends.last, "clean") for ends in (without, with_it)]
        return Found(
            interval_of(robust[without.best] - robust[without.last]),
            interval_of(robust[with_it.best] - robust[with_it.last]),
            interval_of(robust[with_it.last] - robust[without.last]),
            interval_of(clean[1] - clean[0]),
        )

    def _ends(self, lab: Lab, name: str, seed: int) -> Ends:
        run, suite = self._run(lab, name, seed), SUITES[lab.scale]
        return Ends(lab.evaluated(run, suite=suite, weights="best"), lab.evaluated(run, suite=suite, weights="last"))

    def _run(self, lab: Lab, name: str, seed: int) -> Run:
        net = _NETS[lab.scale] + (_NOISE if self.noise else _NO_NOISE)
        penalty = _PLAIN if name == "PGD-AT" else ()
        slug = f"{'plain' if name == 'PGD-AT' else 'ensembling'}_{'noisy' if self.noise else 'true'}"
        return lab.trained(slug, net + penalty, seed)

    def _history(self, lab: Lab, name: str) -> list[Curve]:
        records = [lab.validations(self._run(lab, name, seed)) for seed in lab.seeds]
        return [([r["progress"] for r in of], [r["robust_accuracy"] for r in of]) for of in records]


def random_labels(lab: Lab) -> Verdict:
    """Who learns random labels by heart: accuracies on the training images, with the labels that were trained on."""
    rows, accuracies = [], {name: {"clean": [], "robust": []} for name in RANDOM_LABELS}
    gaps: dict[str, list[Interval]] = {"clean": [], "robust": []}
    for seed in lab.seeds:
        folders = {}
        for name, nets in RANDOM_LABELS.items():
            run = lab.trained(f"random_labels_{name.lower().replace('-', '_')}", nets[lab.scale], seed)
            folders[name] = _on_training_images(lab, run)
            for quantity, value in zip(("clean", "robust"), lab.accuracies(folders[name]), strict=True):
                accuracies[name][quantity].append(value)
        for quantity, found in gaps.items():
            right = [lab.right(folder, "clean" if quantity == "clean" else "robust") for folder in folders.values()]
            found.append(interval_of(right[0] - right[1]))
        texts = [f"{100 * of['clean'][-1]:.1f} / {100 * of['robust'][-1]:.1f}" for of in accuracies.values()]
        rows.append([f"seed {seed}", *texts, *(found[-1].text() for found in gaps.values())])
    answers: dict[str, Answer] = {quantity: above(found, _FITS) for quantity, found in gaps.items()}
    return Verdict(
        every([*answers.values()]),
        "accuracy on the training images with their random labels, PGD-AT minus TRADES, clean and under PGD-20: the "
        f"paired 95 % interval of every seed lies above {100 * _FITS:.0f} points",
        "; ".join(f"{quantity}: {answer}" for quantity, answer in answers.items()),
        ["", *(f"{name}, clean / robust, %" for name in RANDOM_LABELS), "clean, points", "robust, points"],
        rows,
        dots(accuracies, "accuracy on training images, %"),
        {"accuracies": accuracies},
    )


def _on_training_images(lab: Lab, run: Run) -> Path:
    """The folder of an evaluation on the images and labels that the run was trained on."""
    from ..evaluation import evaluate
    from ..runs.load import load
    from ..targets.target import device_of

    folder = run.path / "evaluations" / ("training" if lab.examples is None else f"training-of-{lab.examples}")
    if not (folder / "summary.json").exists():
        lab.say(f"{lab.scale}: attacking the training images of {run.path.parent.name}, {run.path.name}")
        recipe = run.recipe()
        training, _ = recipe.data.load_training(recipe.model.img_size)
        threat, images = recipe.evaluation.threat, training.head(lab.examples)
        evaluate(load(run.path), images, suite="pgd20", threat=threat, device=device_of("auto"), out=folder)
    return folder


def _least(found: Sequence[Found], name: str, least: float) -> Answer:
    """Whether a difference is at least so much in every seed."""
    return of_seeds([getattr(one, name).difference >= least for one in found])


def _most(found: Sequence[Found], name: str, most: float) -> Answer:
    return of_seeds([getattr(one, name).difference <= most for one in found])


MEMORIZATION_CLAIMS = (
    Claim(
        "memorization/noise",
        "Temporal ensembling closes the gap between best and last checkpoint of PGD-AT: here under 20 % label noise, "
        "where small data overfit",
        Cure(noise=True),
    ),
    Claim(
        "memorization/control",
        "With true labels temporal ensembling costs no robust accuracy at the end",
        Cure(noise=False, control=True),
    ),
    Claim(
        "memorization/cure",
        "With true labels temporal ensembling closes the gap between best and last checkpoint of PGD-AT (on CIFAR-10, "
        "from about 8 points to about 1 [recalled]; digits have no such gap)",
        Cure(noise=False),
    ),
    Claim(
        "memorization/random_labels",
        "PGD-AT can learn random labels by heart, TRADES cannot (abstract: not all algorithms converge)",
        random_labels,
    ),
)
