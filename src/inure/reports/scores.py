"""Accuracies with their intervals, and what the outcomes of single examples add up to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..settings.config import parse_real
from .run_files import EvaluationFiles, RunFiles, dig, number, records, whole

if TYPE_CHECKING:
    import numpy


@dataclass(frozen=True)
class Score:
    """A share of examples with its 95 % interval, all in [0, 1]."""

    share: float
    low: float
    high: float
    total: int

    @property
    def text(self) -> str:
        """Such as ``97.2 %``."""
        return f"{100 * self.share:.1f}\u00a0%"

    @property
    def interval(self) -> str:
        """Such as ``95.0 – 98.5 %``."""
        return f"{100 * self.low:.1f}\u2009–\u2009{100 * self.high:.1f}\u00a0%"


@dataclass(frozen=True)
class AttackRow:
    """One line of the accuracy table."""

    name: str
    score: Score | None
    forwards: int | None = None
    backwards: int | None = None
    seconds: float | None = None
    is_headline: bool = False


@dataclass(frozen=True)
class ClassRow:
    """Accuracies on the examples of one class."""

    name: str
    total: int
    clean: Score | None
    robust: Score | None
    trained: int | None = None
    """Training images, where they are long-tailed."""

    @property
    def worst(self) -> float:
        """The lower of the two."""
        return min(score.share for score in (self.clean, self.robust) if score is not None)


def score_of(share: Any, total: int, interval: Any = None) -> Score | None:
    """A score from a share, with the interval as given or else Wilson's; None if it was not measured."""
    value = number(share)
    if value is None:
        return None
    given = [number(end) for end in interval] if isinstance(interval, list) and len(interval) == 2 else [None, None]
    low, high = given
    if (low is None or high is None) and total > 0:
        from ..evaluation.intervals import wilson

        low, high = wilson(round(value * total), total)
    return Score(value, value if low is None else low, value if high is None else high, total)


def clean_score(summary: dict[str, Any]) -> Score | None:
    """Accuracy on the images as they are."""
    return score_of(summary.get("clean_accuracy"), whole(summary.get("examples")), dig(summary, "interval95.clean"))


def robust_score(summary: dict[str, Any]) -> Score | None:
    """Accuracy against the worst of the suite's attacks; None if there was none."""
    return score_of(summary.get("robust_accuracy"), whole(summary.get("examples")), dig(summary, "interval95.robust"))


def attack_rows(summary: dict[str, Any]) -> list[AttackRow]:
    """Clean accuracy, then what stands after each attack; the last line is the suite's robust accuracy."""
    total = whole(summary.get("examples"))
    rows = [AttackRow("no attack", clean_score(summary))]
    attacks = records(summary.get("attacks"))
    for position, attack in enumerate(attacks, start=1):
        is_last = position == len(attacks)
        interval = dig(summary, "interval95.robust") if is_last else None
        rows.append(
            AttackRow(
                name=str(attack.get("name", "?")) if position == 1 else f"then {attack.get('name', '?')}",
                score=score_of(attack.get("robust_accuracy"), total, interval),
                forwards=whole(attack.get("forwards")),
                backwards=whole(attack.get("backwards")),
                seconds=number(attack.get("seconds")),
                is_headline=is_last,
            )
        )
    return rows


def headline_key(runs: Sequence[RunFiles]) -> tuple[str, str] | None:
    """The (suite, threat) whose numbers head the page.

    The one under which most runs were attacked; then one at the threat model of the recipe, so that a check at a
    huge epsilon does not become the headline; then the one with the lowest robust accuracy, never the flattering.
    """
    found: dict[tuple[str, str], list[tuple[bool, float | None]]] = {}
    for run in runs:
        planned = _threat(dig(run.recipe, "evaluation.threat"))
        for evaluation in run.evaluations:
            as_planned = _threat(evaluation.summary.get("threat")) == planned
            robust = number(evaluation.summary.get("robust_accuracy"))
            found.setdefault(key_of(evaluation), []).append((as_planned, robust))

    def rank(key: tuple[str, str]) -> tuple[int, int, float]:
        robust = [value for _, value in found[key] if value is not None]
        return -len(robust), -sum(as_planned for as_planned, _ in found[key]), sum(robust)

    return min(found, key=rank, default=None)


def key_of(evaluation: EvaluationFiles) -> tuple[str, str]:
    """Suite and threat: what two evaluations must share to be compared. Another mode than robust is named."""
    suite, mode = str(evaluation.summary.get("suite", "")), evaluation.summary.get("mode")
    if mode not in (None, "robust"):
        weights = mode.items() if isinstance(mode, dict) else ()
        suite += ", mode " + (" ".join(f"{name}={weight:g}" for name, weight in weights) or str(mode))
    return suite, str(evaluation.summary.get("threat", ""))


def find_evaluation(run: RunFiles, key: tuple[str, str] | None) -> EvaluationFiles | None:
    """The evaluation of ``run`` with that suite and threat."""
    return next((evaluation for evaluation in run.evaluations if key_of(evaluation) == key), None)


def _threat(value: Any) -> tuple[str, float] | None:
    """``linf:8/255`` or ``{kind: linf, epsilon: 8/255}`` as a pair that can be compared."""
    kind, epsilon = (dig(value, "kind"), dig(value, "epsilon")) if isinstance(value, dict) else (None, None)
    if isinstance(value, str):
        kind, _, epsilon = value.partition(":")
    try:
        return str(kind), round(float(parse_real(epsilon)), 6)
    except (TypeError, ValueError):
        return None


def final_predictions(outcomes: "dict[str, numpy.ndarray]") -> "dict[str, numpy.ndarray]":
    """One entry per example, by index: label, clean prediction, and the prediction under attack.

    The prediction under attack is the one of the attack that broke the example, otherwise the last one. It
    is the clean prediction where no attack was needed.
    """
    import numpy as np

    clean = outcomes["attack"] == "clean"
    order = np.argsort(outcomes["index"][clean], kind="stable")
    index = outcomes["index"][clean][order]
    clean_prediction = outcomes["clean_prediction"][clean][order]
    label = outcomes["label"][clean][order]
    adversarial = clean_prediction.copy()
    broken = clean_prediction != label
    attacked = outcomes["attack"] != "clean"
    # Rows are in the order in which the attacks ran; an example leaves the race once it is broken.
    for attack in dict.fromkeys(outcomes["attack"][attacked].tolist()):
        rows = outcomes["attack"] == attack
        known = rows & np.isin(outcomes["index"], index)
        place = np.searchsorted(index, outcomes["index"][known])
        prediction = outcomes["adversarial_prediction"][known]
        open_ = ~broken[place]
        adversarial[place[open_]] = prediction[open_]
        broken[place] |= prediction != label[place]
    return {
        "index": index,
        "label": label,
        "clean": clean_prediction,
        "adversarial": adversarial,
        "broken": broken,
    }


def confusion(label: "numpy.ndarray", prediction: "numpy.ndarray", num_classes: int) -> "numpy.ndarray":
    """Counts (num_classes, num_classes): rows are labels, columns predictions.

    Predictions of -1 (logits that were not finite), if any, are counted in one more column at the end.
    """
    import numpy as np

    counts = np.zeros((num_classes, num_classes + 1), dtype=np.int64)
    np.add.at(counts, (label, np.where(prediction < 0, num_classes, prediction)), 1)
    return counts if counts[:, num_classes].any() else counts[:, :num_classes]


def class_rows(finals: "dict[str, numpy.ndarray]", names: Sequence[str], *, attacked: bool) -> list[ClassRow]:
    """Accuracies class by class; classes without an example are left out."""
    rows = []
    for label, name in enumerate(names):
        members = finals["label"] == label
        total = int(members.sum())
        if not total:
            continue
        clean = int((finals["clean"][members] == label).sum())
        standing = int((~finals["broken"][members]).sum())
        robust = score_of(standing / total, total) if attacked else None
        rows.append(ClassRow(name, total, score_of(clean / total, total), robust))
    return rows
