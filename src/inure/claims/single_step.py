"""Catastrophic overfitting of single-step training (Wong et al., 2020, arXiv:2001.03994; Andriushchenko and Flammarion,
2020, arXiv:2007.02617): who collapses, whether the detector sees it, and whether the loss bends first.

One study answers all three; its runs are those of a table that was measured before in another program. The
criterion for the cures is the one that this library set itself: they stay above 0.10 (PGD accuracy) and 0.75
(alignment), milder than that table's own 0.15 and 0.8.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..attacks import FGSM
from ..libraries import torch
from ..machine import files
from ..measures.alignment import gradient_alignment
from ..noise import CounterNoise
from ..runs.load import load
from ..runs.run import Run
from ..study.jobs import Job
from ..types import Scale
from .claim import Claim, Verdict, every, of_seeds
from .figures import dots
from .lab import Lab, summary_of
from .question import run_part

_STUDY = "single_step"
_LARGE: dict[Scale, str] = {"smoke": "0.10", "gpu": "16/255", "paper": "16/255"}
_GRAD_ALIGN: dict[Scale, str] = {"smoke": "GradAlign 1", "gpu": "GradAlign 2", "paper": "GradAlign 2"}
_BATCH = 256


@dataclass(frozen=True)
class End:
    """A run of the study at its end, on the test images, and what its validations said on the way."""

    cell: str
    seed: int
    clean: float
    fgsm: float
    pgd: float
    alignment: float
    pgd_before: list[float]
    """Accuracy of the probe under PGD at every validation."""
    alignment_before: list[float]
    alarm: int | None
    """The epoch of the first warning."""

    @property
    def truth(self) -> Literal["collapsed", "sound", "neither"]:
        """Collapsed if PGD accuracy is at most 0.05 and the alignment below 0.5, sound if neither is so."""
        signs = (self.pgd <= 0.05, self.alignment < 0.5)
        return "collapsed" if all(signs) else "neither" if any(signs) else "sound"

    def row(self) -> list[Any]:
        """For the table."""
        numbers = [f"{100 * value:.1f}" for value in (self.clean, self.fgsm, self.pgd)]
        alarm = "none" if self.alarm is None else f"epoch {self.alarm}"
        return [self.cell, self.seed, *numbers, f"{self.alignment:.2f}", self.truth, alarm]


def fallen(values: Sequence[float]) -> int:
    """The last validation, counted from 1, at which a quantity was within 10 % of its best."""
    least = 0.9 * max(values)
    return max(number for number, value in enumerate(values, start=1) if value >= least)


def _collapse(ends: list[End], scale: Scale) -> tuple[list[Any], str]:
    def holds(method: str, condition: Callable[[End], bool]) -> Any:
        return of_seeds([condition(end) for end in ends if end.cell == f"{method}, {_LARGE[scale]}"])

    answers = [holds("FGSM", lambda end: end.pgd <= 0.01 and end.alignment < 0.3)]
    cures = ("RS-FGSM", "N-FGSM k=1", "N-FGSM k=2", _GRAD_ALIGN[scale])
    answers += [holds(method, lambda end: end.pgd > 0.10 and end.alignment > 0.75) for method in cures]
    reasons = [f"{method}: {answer}" for method, answer in zip(("FGSM", *cures), answers, strict=True)]
    return answers, "; ".join(reasons)


def _detector(ends: list[End], scale: Scale) -> tuple[list[Any], str]:
    misses = [end for end in ends if end.truth == "collapsed" and end.alarm is None]
    false = [end for end in ends if end.truth == "sound" and end.alarm is not None]
    open_ = sum(end.truth == "neither" for end in ends)
    answers = [of_seeds([not misses]), of_seeds([not false])] if any(e.truth == "collapsed" for e in ends) else []
    named = [
        f"{what}: {end.cell}, seed {end.seed}"
        for what, some in (("miss", misses), ("false alarm", false))
        for end in some
    ]
    found = f"{len(misses)} misses, {len(false)} false alarms in {len(ends)} runs, {open_} of them neither"
    return answers, "; ".join([found, *named])


def _order(ends: list[End], scale: Scale) -> tuple[list[Any], str]:
    collapsed = [end for end in ends if end.truth == "collapsed"]
    both = [(end, fallen(end.alignment_before), fallen(end.pgd_before)) for end in collapsed]
    text = [f"{end.cell}, seed {end.seed}: alignment {bent}, PGD {lost}" for end, bent, lost in both]
    return ([of_seeds([bent <= lost for _, bent, lost in both])] if both else []), "; ".join(text) or "no run collapsed"


@dataclass(frozen=True)
class Question:
    """What has to hold in the runs of the study."""

    criterion: str
    judge: Callable[[list[End], Scale], tuple[list[Any], str]]

    def __call__(self, lab: Lab) -> Verdict:
        """Run the study at the lab's scale with its seeds, look at the test images, judge."""
        _, jobs = run_part(lab, _STUDY, {})
        ends = [end_of(job) for job in jobs.values() if not (job.result() or {}).get("failure")]
        answers, reason = self.judge(ends, lab.scale)
        accuracies: dict[str, dict[str, list[float]]] = {}
        for end in ends:
            for quantity, value in (("clean", end.clean), ("robust", end.pgd)):
                accuracies.setdefault(end.cell, {}).setdefault(quantity, []).append(value)
        return Verdict(
            every(answers),
            f"study {_STUDY} at scale {lab.scale}, every seed: {self.criterion}",
            reason,
            ["run", "seed", "clean", "FGSM", "PGD", "alignment", "truth", "first warning"],
            [end.row() for end in ends],
            dots(accuracies),
            {"study": _STUDY, "runs": [vars(end) for end in ends]},
        )


def end_of(job: Job) -> End:
    """What became of a run; its look at the test images is kept beside it."""
    run, kept = Run(job.folder), job.folder / "single_step.json"
    if not kept.exists():
        files.write_json(kept, _looked(run))
    seen, summary = json.loads(kept.read_bytes()), summary_of(job.evaluation)
    records = files.read_lines(run.metrics)
    validations = [r["validation"] for r in records if r["event"] == "epoch"]
    alarms = [r["epoch"] for r in records if r["event"] == "warning" and r["kind"] == "catastrophic_overfitting"]
    return End(
        job.name, job.seed, summary["clean_accuracy"], seen["fgsm"], summary["robust_accuracy"], seen["alignment"],
        [v["probe_pgd_accuracy"] for v in validations], [v["alignment"] for v in validations],
        min(alarms, default=None),
    )  # fmt: skip


def _looked(run: Run) -> dict[str, float]:
    """FGSM accuracy and gradient alignment on all test images."""
    recipe = run.recipe()
    images, net = recipe.data.load_test(recipe.model.img_size), load(str(run.path)).eval()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net, attack = net.to(device), FGSM(threat=recipe.evaluation.threat)
    right, cosines = 0.0, 0.0
    for rows in torch.arange(len(images)).split(_BATCH):
        x, y, index = images.examples(rows, device)
        noise = CounterNoise(0, index)
        epsilon = recipe.evaluation.threat.epsilon
        cosines += float(gradient_alignment(net, x, y, epsilon=epsilon, noise=noise)) * len(x)
        with torch.no_grad():
            right += float((net(attack(net, x, y)).argmax(1) == y).sum())
    return {"fgsm": right / len(images), "alignment": cosines / len(images)}


SINGLE_STEP_CLAIMS = (
    Claim(
        "single_step/collapse",
        "FGSM training collapses; RS-FGSM, N-FGSM and GradAlign do not (both papers; sizes from our own table)",
        Question(
            "at the larger epsilon FGSM ends with PGD accuracy at most 0.01 and gradient alignment below 0.3; RS-FGSM, "
            "N-FGSM (k = 1, 2) and the stronger GradAlign with more than 0.10 and 0.75",
            _collapse,
        ),
    ),
    Claim(
        "single_step/detector",
        "The guard's rule sees every collapse and no other run (ours)",
        Question(
            "a warning in every run that ends with PGD accuracy at most 0.05 and alignment below 0.5, none in a run "
            "that ends above both; a run between them counts neither way",
            _detector,
        ),
    ),
    Claim(
        "single_step/alignment_first",
        "Gradient alignment falls before PGD accuracy or with it (our table)",
        Question(
            "in every collapsed run the last validation at which the alignment was within 10 % of its best is not "
            "later than that of PGD accuracy",
            _order,
        ),
    ),
)
