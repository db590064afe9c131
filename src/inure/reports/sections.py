"""The parts of the page, as plain records that the template sets out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..training.overfitting import overfitting_text
from .checkpoints import Checkpoint, kept_checkpoints
from .figures import confusion_figure
from .long_tail import LongTailPart, long_tail_part
from .names import deciding_metric
from .notices import is_verified, progress_of
from .pictures import ExamplePictures, example_pictures
from .run_files import EvaluationFiles, RunFiles, dig, number, records, whole
from .scores import (
    AttackRow,
    ClassRow,
    Score,
    attack_rows,
    class_rows,
    clean_score,
    confusion,
    final_predictions,
    find_evaluation,
    headline_key,
    robust_score,
)
from .settings_text import (
    Facts,
    commands,
    environment_facts,
    evaluation_text,
    packages_text,
    protocols,
    setting_facts,
    title_of,
)

if TYPE_CHECKING:
    import numpy
    from markupsafe import Markup

_MOST_CLASSES = 20
_NO_ANSWER = "no answer"


@dataclass(frozen=True)
class Headline:
    """The numbers of one run that matter most."""

    name: str
    what: str
    progress: str
    setting: str
    """Suite, threat and number of examples; empty without an evaluation."""
    clean: Score | None
    robust: Score | None
    verified: bool


@dataclass(frozen=True)
class AccuracyGroup:
    """One suite in the accuracy table, with the runs that were measured with it."""

    setting: str
    remarks: list[str]
    rows: list[tuple[str, AttackRow]]
    """Run and line of the table; the same attack on different runs stands together."""


@dataclass(frozen=True)
class ConfusionPart:
    """A confusion matrix and its commonest mistakes in words."""

    figure: "Markup"
    mistakes: str


@dataclass(frozen=True)
class RunSection:
    """Everything on one run that is not compared with others."""

    name: str
    evaluation: str
    """Where examples and outcomes come from."""
    class_names: list[str]
    checkpoints: list[Checkpoint]
    metric: str
    """In words, by which accuracy the best was chosen; empty if it is not known."""
    validation_examples: int
    overfitting: str
    """What was lost between the best and the last validation; empty if it is not known."""
    pictures: list[ExamplePictures]
    factor: float
    pixelated: bool
    confusions: list[ConfusionPart]
    classes: list[ClassRow]
    classes_left_out: int
    long_tail: LongTailPart | None
    facts: Facts
    recipe_text: str
    protocols: list[tuple[str, str]]
    """Evaluation and its protocol as JSON."""
    environment: Facts
    packages: str
    commands: list[tuple[str, str]]

    def class_name(self, label: int) -> str:
        """The name of a class, or its number."""
        if label < 0:
            return _NO_ANSWER
        return self.class_names[label] if label < len(self.class_names) else str(label)


def headlines(runs: Sequence[RunFiles], key: tuple[str, str] | None) -> list[Headline]:
    """One per run, all from the evaluation with the same suite and threat."""
    found = []
    for run in runs:
        evaluation = find_evaluation(run, key)
        summary = evaluation.summary if evaluation else {}
        setting = evaluation_text(summary) if evaluation else ""
        verified = evaluation is None or is_verified(evaluation)
        scores = clean_score(summary), robust_score(summary)
        found.append(Headline(run.name, title_of([run]), progress_of(run), setting, *scores, verified))
    return found


def accuracy_groups(runs: Sequence[RunFiles]) -> list[AccuracyGroup]:
    """Every evaluation of every run; those with equal suite, threat and number of examples together."""
    members: dict[str, list[tuple[str, EvaluationFiles]]] = {}
    for run in runs:
        for evaluation in run.evaluations:
            members.setdefault(evaluation_text(evaluation.summary), []).append((run.name, evaluation))
    groups, said = [], set()
    for setting, pairs in sorted(members.items()):
        columns = [[(name, row) for row in attack_rows(evaluation.summary)] for name, evaluation in pairs]
        rows = [row for line in zip(*columns, strict=True) for row in line]
        remarks = [remark for remark in _remarks(pairs, many=len(runs) > 1) if remark not in said]
        said.update(remark for remark in remarks if remark.startswith("Calibration"))
        groups.append(AccuracyGroup(setting, remarks, rows))
    return groups


def run_section(run: RunFiles, headline: EvaluationFiles | None, anchor: str) -> RunSection:
    """The section of one run, with outcomes and examples of the headline, or of its strongest suite."""
    evaluation = headline or find_evaluation(run, headline_key([run]))
    summary = evaluation.summary if evaluation else {}
    examples = evaluation.examples if evaluation else None
    pictures, factor = example_pictures(examples) if examples else ([], 1.0)
    names = _class_names(run, evaluation)
    confusions, classes = _outcome_parts(evaluation, names, anchor) if evaluation else ([], [])
    long_tail = long_tail_part(summary, anchor)
    if long_tail is not None:
        classes = _by_training_images(classes, summary)
    shown = classes
    if len(classes) > _MOST_CLASSES:
        shown = sorted(classes, key=lambda row: row.worst)[:_MOST_CLASSES]
    return RunSection(
        name=run.name,
        evaluation=evaluation_text(summary) if evaluation else "",
        class_names=names,
        checkpoints=kept_checkpoints(run),
        metric=deciding_metric(run.recipe).replace("_", " "),
        overfitting=overfitting_text(run.run["overfitting"]) if run.run.get("overfitting") else "",
        validation_examples=whole(dig(run.run, "data.validation_examples")),
        pictures=pictures,
        factor=factor,
        pixelated=examples is not None and examples["x"].shape[-1] <= 64,
        confusions=confusions,
        classes=shown,
        classes_left_out=len(classes) - len(shown),
        long_tail=long_tail,
        facts=setting_facts(run),
        recipe_text=run.recipe_text,
        protocols=protocols(run),
        environment=environment_facts(run),
        packages=packages_text(run),
        commands=commands(run),
    )


def _remarks(pairs: Sequence[tuple[str, EvaluationFiles]], *, many: bool) -> list[str]:
    """Calibration, and what is not verified, in a line each."""
    errors = [(name, number(dig(evaluation.summary, "calibration.clean_ece"))) for name, evaluation in pairs]
    known = [
        f"{name} {100 * ece:.1f}\u00a0%" if many else f"{100 * ece:.1f}\u00a0%"
        for name, ece in errors
        if ece is not None
    ]
    unverified = [name for name, evaluation in pairs if not is_verified(evaluation)]
    remarks = [f"Calibration error on clean images: {', '.join(known)}"] if known else []
    if unverified:
        remarks.append(f"Not verified: {', '.join(unverified)}" if many else "Not verified")
    return remarks


def _outcome_parts(
    evaluation: EvaluationFiles, names: Sequence[str], anchor: str
) -> tuple[list[ConfusionPart], list[ClassRow]]:
    """Confusion matrices and accuracies class by class; nothing where no outcomes were kept."""
    if evaluation.outcomes is None:
        return [], []
    finals = final_predictions(evaluation.outcomes)
    attacked = number(evaluation.summary.get("robust_accuracy")) is not None
    parts = []
    for kind, title in (("clean", "Clean images"), ("adversarial", "Under attack"))[: 1 + attacked]:
        counts = confusion(finals["label"], finals[kind], len(names))
        columns = [*names, _NO_ANSWER][: counts.shape[1]]
        figure = confusion_figure(counts, names, columns, name=f"{anchor}{kind}", title=title)
        parts.append(ConfusionPart(figure, _frequent_mistakes(counts, names, columns)))
    return parts, class_rows(finals, names, attacked=attacked)


def _by_training_images(rows: list[ClassRow], summary: dict[str, Any]) -> list[ClassRow]:
    """The same classes, those with the most training images first."""
    each = records(dig(summary, "classes.each"))
    if [str(record.get("name")) for record in each] != [row.name for row in rows]:
        return rows
    counted = [
        replace(row, trained=whole(record.get("training_examples"))) for row, record in zip(rows, each, strict=True)
    ]
    return sorted(counted, key=lambda row: -(row.trained or 0))


def _class_names(run: RunFiles, evaluation: EvaluationFiles | None) -> list[str]:
    """The names of the run; numbers for classes that have none."""
    names = run.run.get("class_names")
    names = [str(name) for name in names] if isinstance(names, list) else []
    largest = len(names) - 1
    if evaluation and evaluation.outcomes and len(evaluation.outcomes["label"]):
        columns = ("label", "clean_prediction", "adversarial_prediction")
        largest = max(largest, *(int(evaluation.outcomes[column].max()) for column in columns))
    return [*names, *(str(i) for i in range(len(names), largest + 1))]


def _frequent_mistakes(counts: "numpy.ndarray", names: Sequence[str], columns: Sequence[str]) -> str:
    """The three commonest mistakes, in words."""
    pairs = [(int(counts[i, j]), names[i], columns[j]) for i, j in zip(*counts.nonzero(), strict=True) if i != j]
    pairs.sort(key=lambda pair: -pair[0])
    return ", ".join(f"{label} taken for {prediction} ({count}×)" for count, label, prediction in pairs[:3])
