"""Accuracies by class against outcomes tables made by hand."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inure.evaluation.by_class import GROUPS, CountGroups, ShareGroups, by_class, is_long_tailed
from inure.recipe.slots import EvaluationSettings
from inure.settings.config import build, dump
from inure.settings.errors import UserError
from inure.targets.evaluation_output import class_table

NAMES = ("ant", "bee", "cat")


def table(examples):
    """From (label, verdicts): the clean one first, then those of the attacks that were tried, as a cascade does."""
    rows = [
        {"index": 10 + i, "label": label, "attack": attack, "robust": verdict}
        for i, (label, verdicts) in enumerate(examples)
        for attack, verdict in zip(("clean", "pgd20", "cw20"), verdicts, strict=False)
    ]
    # As in the file: all rows of one attack together
    order = {"clean": 0, "pgd20": 1, "cw20": 2}
    return pa.Table.from_pylist(sorted(rows, key=lambda row: order[row["attack"]]))


YES, NO = True, False
EXAMPLES = [
    (0, [YES, YES, YES]), (0, [YES, YES, YES]), (0, [YES, NO]), (0, [YES, YES, NO]),
    (2, [YES, NO]), (2, [NO]),
]  # fmt: skip


def test_every_class_has_its_counts_and_accuracies():
    found = by_class(table(EXAMPLES), NAMES, attacked=True, counts=[90, 30, 10])
    assert found["each"] == [
        {"name": "ant", "examples": 4, "training_examples": 90, "clean_accuracy": 1.0, "robust_accuracy": 0.5},
        {"name": "cat", "examples": 2, "training_examples": 10, "clean_accuracy": 0.5, "robust_accuracy": 0.0},
    ]
    assert found["balanced_clean_accuracy"] == 0.75
    assert found["balanced_robust_accuracy"] == 0.25
    assert found["worst_class_clean_accuracy"] == 0.5
    assert found["worst_class_robust_accuracy"] == 0.0
    assert [(g["name"], g["classes"], g["training_examples"], g["examples"]) for g in found["groups"]] == [
        ("head", 1, 90, 4), ("body", 1, 30, 0), ("tail", 1, 10, 2),
    ]  # fmt: skip
    assert [g["robust_accuracy"] for g in found["groups"]] == [0.5, None, 0.0]
    assert [g["clean_accuracy"] for g in found["groups"]] == [1.0, None, 0.5]


def test_without_an_attack_nothing_is_claimed_of_robustness():
    found = by_class(table([(0, [YES]), (1, [NO])]), NAMES, attacked=False, counts=[9, 3, 1])
    assert [record["robust_accuracy"] for record in found["each"]] == [None, None]
    assert found["balanced_robust_accuracy"] is None
    assert found["worst_class_robust_accuracy"] is None
    assert found["groups"][0] == {
        "name": "head", "classes": 1, "training_examples": 9, "examples": 1, "clean_accuracy": 1.0,
        "robust_accuracy": None,
    }  # fmt: skip


def test_where_nobody_stands_for_the_attack_robustness_is_zero():
    found = by_class(table([(0, [NO]), (1, [NO])]), NAMES, attacked=True)
    assert found["balanced_robust_accuracy"] == 0.0


@pytest.mark.parametrize("counts", [None, [10, 10, 10], [19, 10, 12], [9, 3]])
def test_groups_are_given_only_for_known_long_tails_of_these_classes(counts):
    found = by_class(table(EXAMPLES), NAMES, attacked=True, counts=counts)
    assert "groups" not in found
    assert all(("training_examples" in record) == (counts is not None and len(counts) == 3) for record in found["each"])


def test_classes_without_names_have_numbers():
    assert [record["name"] for record in by_class(table(EXAMPLES), None, attacked=True)["each"]] == ["0", "2"]


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_balanced_accuracy_of_equal_classes_is_the_accuracy(drawn):
    examples = [(label, [clean, robust] if clean else [False]) for label, clean, robust in drawn]
    every = [(label, verdicts) for _, verdicts in examples for label in range(5)]
    found = by_class(table(every), tuple("abcde"), attacked=True)
    clean = sum(verdicts[0] for _, verdicts in every) / len(every)
    robust = sum(all(verdicts) for _, verdicts in every) / len(every)
    assert found["balanced_clean_accuracy"] == pytest.approx(clean)
    assert found["balanced_robust_accuracy"] == pytest.approx(robust)
    assert found["worst_class_robust_accuracy"] <= found["balanced_robust_accuracy"] + 1e-12


@given(st.lists(st.integers(1, 500), min_size=2, max_size=60), st.floats(0, 0.5), st.floats(0, 0.5))
def test_groups_are_a_partition_from_the_most_to_the_fewest(counts, head, tail):
    for groups in (ShareGroups(head=head, tail=tail), CountGroups()):
        split = groups.split(counts)
        assert tuple(split) == GROUPS
        assert sorted(k for members in split.values() for k in members) == [*range(len(counts))]
        ordered = [counts[k] for name in GROUPS for k in split[name]]
        assert ordered == sorted(counts, reverse=True)


@given(st.permutations(range(9)))
def test_groups_go_with_the_classes_when_these_are_renamed(order):
    counts = [500, 300, 200, 100, 60, 40, 20, 9, 5]
    plain, shuffled = ShareGroups().split(counts), ShareGroups().split([counts[k] for k in order])
    assert {name: {order[k] for k in members} for name, members in shuffled.items()} == {
        name: set(members) for name, members in plain.items()
    }


@pytest.mark.parametrize(("classes", "tail"), [(10, [7, 8, 9]), (100, [*range(67, 100)])])
def test_thirds_of_sorted_classes_have_the_tail_of_reat(classes, tail):
    counts = [*range(1000, 1000 - classes, -1)]
    assert ShareGroups().split(counts)["tail"] == tail
    assert tail == [*range(classes // 3 * 2 + 1, classes)]


def test_other_cut_offs():
    counts = [5000, 3000, 101, 100, 20, 19, 8, 6, 5, 4]
    assert [len(g) for g in ShareGroups(head=0.2, tail=0.8).split(counts).values()] == [2, 0, 8]
    assert CountGroups().split(counts) == {"head": [0, 1, 2], "body": [3, 4], "tail": [5, 6, 7, 8, 9]}
    for tree in ({"kind": "share", "head": 0.6, "tail": 0.5}, {"kind": "count", "head": 10, "tail": 20}):
        with pytest.raises(UserError, match="groups.tail"):
            build(EvaluationSettings, {"groups": tree})
    settings = build(EvaluationSettings, {"groups": {"kind": "count", "head": 50}})
    assert settings.groups == CountGroups(head=50)
    assert build(EvaluationSettings, dump(settings)) == settings


def test_long_tailed_means_twice_as_many():
    assert is_long_tailed([20, 10])
    assert not is_long_tailed([19, 10])
    assert is_long_tailed([2, 0])
    assert not is_long_tailed([5])


def test_the_table_on_the_screen_has_all_groups():
    columns, rows = class_table(by_class(table(EXAMPLES), NAMES, attacked=True, counts=[90, 30, 10]))
    assert all(len(row) == len(columns) for row in rows)
    assert rows == [
        ["all", "2", "130", "75.0 %", "25.0 %"],
        ["head", "1", "90", "100.0 %", "50.0 %"],
        ["body", "1", "30", "-", "-"],
        ["tail", "1", "10", "50.0 %", "0.0 %"],
        ["worst class", "1", "", "50.0 %", "0.0 %"],
    ]
