"""When adversarial training meets vision transformers (Mo et al., 2022, arXiv:2210.07540): each claim is a study."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..comparison import compare_outcomes
from ..errors import UserError
from ..evaluation.results import SUMMARY
from ..run import Run
from ..study import Study, load_study
from ..study.jobs import Job, jobs_of
from ..study.run import run_study
from .claim import UNDECIDED, Answer, Claim, Interval, Verdict, above, below, every
from .figures import dots
from .lab import Lab


@dataclass(frozen=True)
class Condition:
    """Robust accuracy of cells with the levels ``of`` minus that of the cells with ``than``, else equal.

    Both name the same axes.
    """

    of: dict[str, str]
    than: dict[str, str]
    must: Literal["exceed", "stay below"] = "exceed"
    margin: float = 0.0

    def answer(self, gaps: Sequence[Interval]) -> Answer:
        """By the intervals of every seed."""
        return above(gaps, self.margin) if self.must == "exceed" else below(gaps, self.margin)

    def text(self) -> str:
        """For people."""
        differing = [axis for axis, level in self.of.items() if self.than[axis] != level]
        names = [" + ".join(levels[axis] for axis in differing) for levels in (self.of, self.than)]
        return f"{names[0]} minus {names[1]}: {self.must} {100 * self.margin:+.0f}"


@dataclass(frozen=True)
class Question:
    """A shipped study, the part of it that is run, and what has to hold in it."""

    study: str
    conditions: tuple[Condition, ...]
    only: dict[str, tuple[str, ...]]
    """Axis: the levels, or what they begin with; others are left out."""

    def __call__(self, lab: Lab) -> Verdict:
        """Run the study at the lab's scale with its seeds, then compare."""
        if lab.examples is not None:
            raise UserError(
                "--examples", lab.examples, "nothing: a study evaluates on all test images", "data.test=SPEC"
            )
        study = self._part(load_study(self.study).at(lab.scale)).with_overrides(lab.overrides, [*lab.seeds])
        folder = run_study(study, lab.folder / "studies" / self.study, quiet=lab.quiet)
        jobs = {(job.name, job.seed): job for job in jobs_of(study, folder) if job.is_cell}
        rows, answers, reasons, accuracies = [], [], [], _accuracies(jobs)
        for condition in self.conditions:
            for label, mine, other in _pairs(study, condition):
                gaps = _gaps(jobs, mine, other, lab.seeds)
                better = mine if condition.must == "exceed" else other
                learned = all(_learned(jobs[better, seed]) for seed in lab.seeds)
                answers.append(condition.answer(gaps) if learned else UNDECIDED)
                name = f"{label}: {condition.text()}" if label else condition.text()
                rows.append([name, "; ".join(gap.text() for gap in gaps), answers[-1]])
                reasons.append(f"{name}: {answers[-1]}" + ("" if learned else f" ({better} is at chance)"))
        return Verdict(
            every(answers),
            f"study {self.study} at scale {lab.scale}; "
            "differences of robust accuracy in percentage points, paired over the test images: the 95 % interval of "
            "every seed must lie beyond the margin (a net whose loss was not finite counts as wrong everywhere; "
            "nothing is decided where the better net is at chance); " + "; ".join(c.text() for c in self.conditions),
            "; ".join(reasons),
            ["comparison", "points by seed", "answer"],
            rows,
            dots(accuracies),
            {"study": self.study, "accuracies": accuracies},
        )

    def _part(self, study: Study) -> Study:
        axes = {
            axis: {n: part for n, part in levels.items() if n.startswith(self.only.get(axis, ""))}
            for axis, levels in study.axes.items()
        }
        return study.model_copy(update={"axes": axes})


def _pairs(study: Study, condition: Condition) -> Iterator[tuple[str, str, str]]:
    """What else the two cells have, and their names."""
    cells = list(study.cells())
    for cell in cells:
        if all(cell.levels[axis] == level for axis, level in condition.of.items()):
            wanted = {**cell.levels, **condition.than}
            other = next(c for c in cells if c.levels == wanted)
            free = [levels for axis, levels in cell.levels.items() if axis not in condition.of]
            yield ", ".join(free) if len(study.axes) > len(condition.of) else "", cell.name, other.name


def _gaps(jobs: dict[tuple[str, int], Job], mine: str, other: str, seeds: Sequence[int]) -> list[Interval]:
    """The differences by seed. A net whose loss was not finite any more is wrong on every image."""
    gaps = []
    for seed in seeds:
        ours, theirs = jobs[mine, seed], jobs[other, seed]
        if _failed(ours) and _failed(theirs):
            gaps.append(Interval(0.0, 0.0, 0.0))
        elif _failed(ours):
            share, low, high = _alone(theirs)
            gaps.append(Interval(-share, -high, -low))
        elif _failed(theirs):
            gaps.append(Interval(*_alone(ours)))
        else:
            row = next(r for r in compare_outcomes(theirs.evaluation, ours.evaluation) if r.quantity == "robust")
            gaps.append(Interval(row.difference, *row.interval95))
    return gaps


def _learned(job: Job) -> bool:
    """Whether the net knows more of clean images than chance, beyond the 95 % interval."""
    if _failed(job):
        return False
    return _summary(job)["interval95"]["clean"][0] > 1 / Run(job.folder).info()["num_classes"]


def _failed(job: Job) -> bool:
    return (job.result() or {}).get("failure") is not None


def _alone(job: Job) -> tuple[float, float, float]:
    """Robust accuracy and its interval."""
    summary = _summary(job)
    return summary["robust_accuracy"], *summary["interval95"]["robust"]


def _summary(job: Job) -> dict[str, Any]:
    return json.loads((job.evaluation / SUMMARY).read_text(encoding="utf-8"))


def _accuracies(jobs: dict[tuple[str, int], Job]) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    for (name, _), job in jobs.items():
        record: dict[str, Any] = job.result() or {}
        for quantity in ("clean", "robust"):
            values = found.setdefault(name, {}).setdefault(quantity, [])
            values.append(0.0 if record.get("failure") else record[f"{quantity}_accuracy"])
    return found


_ARD, _PRM, _RAMP = "attention dropping", "perturbation masking", "epsilon"
_PLAIN = {_ARD: "no ARD", _PRM: "no PRM", _RAMP: "full epsilon"}
_BOTH = {_ARD: "ARD", _PRM: "PRM", _RAMP: "full epsilon"}
_PGD_AT = {"method": ("PGD-AT",)}
_SGD = {"optimizer": "SGD", "schedule": "piecewise"}

VIT_CLAIMS = (
    Claim(
        "vit/clipping",
        "Without gradient clipping ViT and DeiT collapse, with it they train (summary: 10 % at lr 0.1; smoke: lr 0.5)",
        Question(
            "vit_clipping",
            (Condition({"clipping": "clip 1"}, {"clipping": "no clip"}, margin=0.05),),
            {"net": ("ViT", "DeiT")},
        ),
    ),
    Claim(
        "vit/tricks",
        "Attention random dropping, perturbation random masking and both raise robust accuracy (abstract, summary)",
        Question(
            "vit_tricks",
            (
                Condition({**_PLAIN, _ARD: "ARD"}, _PLAIN),
                Condition({**_PLAIN, _PRM: "PRM"}, _PLAIN),
                Condition(_BOTH, _PLAIN),
            ),
            _PGD_AT,
        ),
    ),
    Claim(
        "vit/curriculum",
        "Both tricks are more than a warm-up of epsilon of the same length (our control; the paper has none)",
        Question("vit_tricks", (Condition(_BOTH, {**_PLAIN, _RAMP: "epsilon warm-up"}),), _PGD_AT),
    ),
    Claim(
        "vit/pretraining",
        "Starting from a clean net helps by far (summary: about 20 points on CIFAR-10)",
        Question("vit_pretraining", (Condition({"start": "clean"}, {"start": "none"}, margin=0.05),), {}),
    ),
    Claim(
        "vit/epochs",
        "Training twice as long does not help (summary)",
        Question("vit_epochs", (Condition({"length": "twice"}, {"length": "once"}, "stay below", margin=0.01),), {}),
    ),
    Claim(
        "vit/augmentation",
        "CutMix and mixup help, RandAugment hurts (summary)",
        Question(
            "vit_augmentation",
            (
                Condition({"augmentation": "CutMix"}, {"augmentation": "none"}),
                Condition({"augmentation": "mixup"}, {"augmentation": "none"}),
                Condition({"augmentation": "RandAugment"}, {"augmentation": "none"}, "stay below"),
            ),
            {},
        ),
    ),
    Claim(
        "vit/optimizer",
        "SGD with the piecewise schedule is better than AdamW with any (summary)",
        Question(
            "vit_optimizer",
            tuple(Condition(_SGD, {"optimizer": "AdamW", "schedule": s}) for s in ("piecewise", "cyclic", "cosine")),
            {},
        ),
    ),
)
