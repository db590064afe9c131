"""Scores and outcomes against counts made by hand."""

import itertools

import numpy as np
import pytest

from inure.evaluation.intervals import wilson
from inure.reports.run_files import EvaluationFiles, RunFiles
from inure.reports.scores import attack_rows, class_rows, confusion, final_predictions, headline_key, score_of
from inure.reports.settings_text import duration, threat_text

# index, label, clean prediction, attack, prediction under it: 7 is wrong at once, 3 falls to a, 5 to b, 1 stands
ROWS = [
    (7, 0, 2, "clean", 2),
    (3, 1, 1, "clean", 1),
    (5, 1, 1, "clean", 1),
    (1, 2, 2, "clean", 2),
    (3, 1, 1, "a", 0),
    (5, 1, 1, "a", 1),
    (1, 2, 2, "a", 2),
    (5, 1, 1, "b", -1),
    (1, 2, 2, "b", 2),
]


def outcomes(rows):
    index, label, clean, attack, adversarial = zip(*rows, strict=True)
    columns = {"index": index, "label": label, "clean_prediction": clean, "adversarial_prediction": adversarial}
    arrays = {name: np.array(values) for name, values in columns.items()}
    return arrays | {"attack": np.array(attack, dtype=object)}


@pytest.mark.parametrize("by_example", [False, True])
def test_the_attack_that_broke_an_example_decides_in_either_order_of_rows(by_example):
    rows = sorted(ROWS, key=lambda row: row[0]) if by_example else ROWS
    finals = final_predictions(outcomes(rows))
    assert finals["index"].tolist() == [1, 3, 5, 7]
    assert finals["label"].tolist() == [2, 1, 1, 0]
    assert finals["clean"].tolist() == [2, 1, 1, 2]
    assert finals["adversarial"].tolist() == [2, 0, -1, 2]
    assert finals["broken"].tolist() == [False, True, True, True]


def test_classes_count_their_own_examples_and_empty_ones_are_left_out():
    rows = class_rows(final_predictions(outcomes(ROWS)), ["zero", "one", "two", "three"], attacked=True)
    assert [(row.name, row.total, row.clean.share, row.robust.share) for row in rows] == [
        ("zero", 1, 0.0, 0.0),
        ("one", 2, 1.0, 0.0),
        ("two", 1, 1.0, 1.0),
    ]
    assert (rows[1].clean.low, rows[1].clean.high) == wilson(2, 2)


def test_no_answer_gets_a_column_of_its_own():
    finals = final_predictions(outcomes(ROWS))
    assert confusion(finals["label"], finals["clean"], 3).tolist() == [[0, 0, 1], [0, 2, 0], [0, 0, 1]]
    attacked = confusion(finals["label"], finals["adversarial"], 3)
    assert attacked.tolist() == [[0, 0, 1, 0], [1, 0, 0, 1], [0, 0, 1, 0]]


def test_confusion_agrees_with_counting():
    rng = np.random.default_rng(0)
    label, prediction = rng.integers(0, 5, (2, 200))
    counts = confusion(label, prediction, 5)
    for i, j in itertools.product(range(5), repeat=2):
        assert counts[i, j] == sum(y == i and p == j for y, p in zip(label, prediction, strict=True))


def test_intervals_are_taken_as_given_and_computed_where_absent():
    assert (score_of(0.5, 10, [0.1, 0.9]).low, score_of(0.5, 10, [0.1, 0.9]).high) == (0.1, 0.9)
    assert (score_of(0.3, 10).low, score_of(0.3, 10).high) == wilson(3, 10)
    assert score_of(None, 10) is None
    assert score_of(float("nan"), 10) is None


def test_the_last_attack_carries_the_robust_accuracy():
    attacks = [{"name": name, "robust_accuracy": share} for name, share in (("a", 0.5), ("b", 0.4))]
    summary = {"examples": 10, "clean_accuracy": 0.9, "robust_accuracy": 0.4, "attacks": attacks}
    rows = attack_rows(summary)
    assert [row.name for row in rows] == ["no attack", "a", "then b"]
    assert [row.is_headline for row in rows] == [False, False, True]
    assert (rows[1].score.low, rows[1].score.high) == wilson(5, 10)


def run_with(*evaluations, threat="linf:8/255"):
    files = [
        EvaluationFiles({"suite": suite, "threat": at, "robust_accuracy": robust}, None, None)
        for suite, at, robust in evaluations
    ]
    return RunFiles(path=None, name="run", recipe={"evaluation": {"threat": threat}}, evaluations=files)


@pytest.mark.parametrize(
    ("evaluations", "suite"),
    [
        ([("clean", "linf:8/255", None), ("pgd20", "linf:8/255", 0.5), ("quick", "linf:8/255", 0.48)], "quick"),
        ([("pgd20", "linf:8/255", 0.5), ("huge", "linf:0.9", 0.0)], "pgd20"),
        ([("clean", "linf:8/255", None), ("pgd20", "linf:0.9", 0.5)], "pgd20"),
        ([("clean", "linf:8/255", None)], "clean"),
    ],
)
def test_the_headline_is_never_the_flattering_number(evaluations, suite):
    assert headline_key([run_with(*evaluations)])[0] == suite
    as_mapping = {"kind": "linf", "epsilon": 8 / 255}
    assert headline_key([run_with(*evaluations, threat=as_mapping)])[0] == suite


def test_a_comparison_uses_what_most_runs_were_attacked_with():
    common, strong = ("pgd20", "linf:8/255", 0.5), ("quick", "linf:8/255", 0.1)
    assert headline_key([run_with(common, strong), run_with(common)])[0] == "pgd20"
    assert headline_key([run_with(), run_with()]) is None


def test_radii_and_times_read_as_people_write_them():
    texts = [threat_text("linf", epsilon).replace("\u00a0", " ") for epsilon in ("8/255", 0.0313725490196, 0.2, "1/4")]
    assert texts == ["ℓ∞, ε = 8/255", "ℓ∞, ε = 8/255", "ℓ∞, ε = 0.2", "ℓ∞, ε = 0.25"]
    assert threat_text("l2", "odd").replace("\u00a0", " ") == "ℓ₂, ε = odd"
    assert [duration(s) for s in (12.34, 125, 3900)] == ["12.3 s", "2 min 5 s", "1 h 5 min"]
