"""Adversarial training on long tails: what balanced softmax brings (AT-BSL, arXiv:2403.10073), and what REAT adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..libraries import Tensor, torch
from ..machine import files
from ..runs.run import Run
from ..targets.comparison import read_labels, read_outcomes
from ..types import Scale
from .claim import UNDECIDED, Answer, Claim, Interval, Verdict, every, interval_of, of_seeds
from .figures import dots
from .lab import Lab, Net, summary_of

_BSL = "balance.train.kind=balanced_softmax"
_SMOKE: dict[str, tuple[str, ...]] = {
    "at": (),
    "at_bsl_80": (_BSL,),
    "reat": (_BSL, "balance.attack={kind: rebalanced, faithful: true}", "penalties=[{kind: tail}]"),
    "reat_effective": (
        _BSL,
        "balance.attack.kind=balanced_softmax",
        "penalties=[{kind: tail, weight: 0.05, reduction: pairwise, rule: counts}]",
    ),
}
"""On digits what the recipes of CIFAR-10-LT with these names differ by."""
NAMES = {"at": "AT", "at_bsl_80": "AT-BSL", "reat": "REAT", "reat_effective": "REAT, effective"}
_GPU = ("engine.precision=bf16", "checkpoint.every=5")
SUITES: dict[Scale, str] = {"smoke": "pgd20", "gpu": "quick", "paper": "autoattack"}
_DEAD = 0.05
"""Robust accuracy of the tail up to which it counts as lost."""
_GAIN = 0.10
"""In balanced clean accuracy; the synthetic check that this claim is about found 15 to 25 points."""
_NARROW = 0.03
"""Half the width of an interval that would show a gain worth the trouble."""


def net_of(recipe: str, scale: Scale) -> Net:
    """One of ``NAMES``."""
    if scale == "smoke":
        return Net("digits/long_tail", _SMOKE[recipe])
    return Net(f"cifar10_lt50/{recipe}", _GPU if scale == "gpu" else ())


class Groups(NamedTuple):
    """Accuracies of one evaluation, each the mean over classes."""

    clean: float
    robust: float
    tail_clean: float
    tail_robust: float


@dataclass(frozen=True)
class Found:
    """A net of one seed."""

    folder: Path
    groups: Groups
    predicted: list[int]
    """What its adversarial training images were predicted as in the last epoch."""


def balanced_softmax(lab: Lab) -> Verdict:
    """Plain adversarial training loses the tail; balanced softmax in the update brings much of its clean accuracy."""
    nets = {name: [_found(lab, name, seed) for seed in lab.seeds] for name in ("at", "at_bsl_80")}
    tails = [found.groups.tail_robust for found in nets["at"]]
    gains = [_gap(*pair, "clean") for pair in zip(nets["at_bsl_80"], nets["at"], strict=True)]
    conditions: list[tuple[str, Answer]] = [
        (f"robust accuracy of AT on the tail at most {100 * _DEAD:.0f} %", of_seeds([t <= _DEAD for t in tails])),
        (
            f"balanced clean accuracy of AT-BSL minus AT more than {100 * _GAIN:.0f} points, its 95 % interval above 0",
            of_seeds([gain.difference > _GAIN and gain.low > 0 for gain in gains]),
        ),
    ]
    return Verdict(
        every([answer for _, answer in conditions]),
        _protocol(lab) + "in every seed: " + "; ".join(text for text, _ in conditions),
        "; ".join(f"{text}: {answer}" for text, answer in conditions),
        ["net", *_COLUMNS, "predictions, last epoch", "balanced clean over AT, points"],
        _rows(nets, {"at_bsl_80": gains}),
        _figure(nets),
        _numbers(nets, gains),
    )


def reat(lab: Lab) -> Verdict:
    """REAT over AT-BSL, in equal settings."""
    nets = {name: [_found(lab, name, seed) for seed in lab.seeds] for name in ("at_bsl_80", "reat", "reat_effective")}
    gaps = {
        name: [_gap(*pair, "robust") for pair in zip(nets[name], nets["at_bsl_80"], strict=True)]
        for name in ("reat", "reat_effective")
    }
    mean = interval_of(_differences(nets["reat"], nets["at_bsl_80"], "robust"))
    return Verdict(
        over(mean, [gap.difference for gap in gaps["reat"]]),
        _protocol(lab)
        + "balanced robust accuracy of REAT (as its code has it) minus AT-BSL, the mean over seeds of each "
        "image's difference: reproduced if its 95 % interval lies above 0 and the difference is above 0 in every seed "
        "(the interval is over images, and does not know how much one training differs from the next); not reproduced "
        f"if the interval does not lie above 0, and is at most {100 * _NARROW:.0f} points wide to either side. "
        "Expected: not reproduced, the two are nearly one method",
        f"REAT minus AT-BSL: {mean.text()} points over {len(lab.seeds)} seeds",
        ["net", *_COLUMNS, "predictions, last epoch", "balanced robust over AT-BSL, points"],
        _rows(nets, gaps),
        _figure(nets),
        _numbers(nets, gaps["reat"]) | {"mean": tuple(vars(mean).values())},
    )


def over(mean: Interval, by_seed: Sequence[float]) -> Answer:
    """Whether the difference is above 0, in every seed too, or measured well enough to say that it is not."""
    if mean.low > 0:
        return "reproduced" if all(difference > 0 for difference in by_seed) else UNDECIDED
    return "not reproduced" if (mean.high - mean.low) / 2 <= _NARROW or mean.high < 0 else UNDECIDED


_COLUMNS = ["balanced clean / robust, %", "tail clean / robust, %"]


def _found(lab: Lab, name: str, seed: int) -> Found:
    run = lab.trained(name, net_of(name, lab.scale), seed)
    folder = lab.evaluated(run, suite=SUITES[lab.scale])
    classes = summary_of(folder)["classes"]
    tail = next(group for group in classes["groups"] if group["name"] == "tail")
    groups = Groups(
        classes["balanced_clean_accuracy"], classes["balanced_robust_accuracy"], tail["clean_accuracy"],
        tail["robust_accuracy"],
    )  # fmt: skip
    return Found(folder, groups, _last_predictions(run))


def _last_predictions(run: Run) -> list[int]:
    records = [record for record in files.read_lines(run.metrics) if record.get("adversarial_predictions")]
    return records[-1]["adversarial_predictions"]


def _gap(mine: Found, other: Found, quantity: str) -> Interval:
    """The difference of balanced accuracies, paired over the images."""
    return interval_of(_differences([mine], [other], quantity))


def _differences(mine: Sequence[Found], others: Sequence[Found], quantity: str) -> Tensor:
    """(N,), the mean over seeds; an image weighs the less the more its class has, so that classes count alike."""
    place = int(quantity == "robust")
    ours, theirs = ([read_outcomes(found.folder) for found in nets] for nets in (mine, others))
    label_of = read_labels(mine[0].folder)
    rows = sorted(label_of)
    labels = torch.tensor([label_of[row] for row in rows])
    members = torch.bincount(labels).double()
    weights = len(rows) / ((members > 0).sum() * members[labels])
    gaps = [[float(a[row][place]) - float(b[row][place]) for row in rows] for a, b in zip(ours, theirs, strict=True)]
    return weights * torch.tensor(gaps).double().mean(0)


def _protocol(lab: Lab) -> str:
    return f"suite {SUITES[lab.scale]} on a balanced test set; every class counts alike, the tail is the rarest third; "


def _rows(nets: dict[str, list[Found]], gaps: dict[str, list[Interval]]) -> list[list[Any]]:
    rows = []
    for name, found in nets.items():
        values = [[100 * value for value in one.groups] for one in found]
        balanced = "; ".join(f"{clean:.1f} / {robust:.1f}" for clean, robust, _, _ in values)
        tail = "; ".join(f"{clean:.1f} / {robust:.1f}" for _, _, clean, robust in values)
        predicted = "; ".join(" ".join(map(str, _shown(one.predicted))) for one in found)
        differences = "; ".join(gap.text() for gap in gaps.get(name, ())) or "-"
        rows.append([NAMES[name], balanced, tail, predicted, differences])
    return rows


def _shown(predicted: list[int]) -> list[int]:
    """All classes, or of many the last ten."""
    return predicted if len(predicted) <= 10 else predicted[-10:]


def _figure(nets: dict[str, list[Found]]) -> bytes:
    return dots(
        {
            NAMES[name]: {
                "balanced clean": [one.groups.clean for one in found],
                "balanced robust": [one.groups.robust for one in found],
                "tail clean": [one.groups.tail_clean for one in found],
                "tail robust": [one.groups.tail_robust for one in found],
            }
            for name, found in nets.items()
        }
    )


def _numbers(nets: dict[str, list[Found]], gaps: Sequence[Interval]) -> dict[str, Any]:
    return {
        "accuracies": {NAMES[name]: [one.groups._asdict() for one in found] for name, found in nets.items()},
        "differences": [tuple(vars(gap).values()) for gap in gaps],
    }


LONG_TAIL_CLAIMS = (
    Claim(
        "long_tail/balanced_softmax",
        "Plain adversarial training on a long tail has no robust accuracy on rare classes; balanced softmax in the "
        "update brings more than 10 points of balanced clean accuracy (the abstract of AT-BSL: it alone matches RoBal)",
        balanced_softmax,
    ),
    Claim(
        "long_tail/reat",
        "REAT is more robust than AT-BSL, with equal epochs and start (of REAT's own tables none could be had)",
        reat,
    ),
)
