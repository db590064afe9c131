"""Two evaluations side by side: the exact test, who may be compared, and what is printed."""

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from inure.commands import _run
from inure.settings.errors import UserError
from inure.targets.comparison import Comparison, compare_outcomes, mcnemar, paired


def write(path, verdicts, labels=None, attacks=("a",), start=0):
    """outcomes.parquet of examples that are ``right`` on the clean image and fall to ``fallen`` attacks or none."""
    rows = []
    for i, (right, fell_to) in enumerate(verdicts):
        label = (labels or {}).get(i, i % 10)
        rows.append({"index": i + start, "label": label, "attack": "clean", "robust": right})
        for name in attacks if right else ():
            rows.append({"index": i + start, "label": label, "attack": name, "robust": name != fell_to})
            if name == fell_to:
                break
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


STANDS, FALLS, WRONG = (True, None), (True, "a"), (False, None)


@given(st.integers(0, 400), st.integers(0, 400))
def test_p_value_is_that_of_the_exact_binomial_test(only_a, only_b):
    expected = binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    assert mcnemar(only_a, only_b) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(only_a, only_b) == mcnemar(only_b, only_a) <= 1


def test_p_value_of_many_disagreements():
    assert mcnemar(4000, 4300) == pytest.approx(binomtest(4000, 8300, 0.5).pvalue, rel=1e-9)
    assert mcnemar(24800, 25200) == pytest.approx(binomtest(24800, 50000, 0.5).pvalue, rel=1e-9)
    assert mcnemar(0, 5000) == pytest.approx(0, abs=1e-300)


def test_counts_shares_and_interval():
    a = dict(enumerate([True] * 6 + [False] * 4))
    b = dict(enumerate([True] * 4 + [False] * 2 + [True] * 3 + [False]))
    found = paired("clean", a, b)
    assert found == Comparison("clean", 10, 0.6, 0.7, 2, 3, binomtest(2, 5, 0.5).pvalue)
    assert found.difference == pytest.approx(0.1)
    # Each example adds -1, 0 or 1: Wald's interval of their mean
    differences = [b[i] - a[i] for i in a]
    mean = sum(differences) / 10
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / 10)
    low, high = found.interval95
    assert (low + high) / 2 == pytest.approx(mean)
    assert (high - low) / 2 == pytest.approx(1.959964 * deviation / math.sqrt(10))


def test_clean_and_robust_are_compared_example_by_example(tmp_path):
    a = write(tmp_path / "a.parquet", [STANDS, STANDS, FALLS, WRONG, FALLS, STANDS])
    b = write(tmp_path / "b.parquet", [STANDS, FALLS, STANDS, STANDS, WRONG, (True, "b")], attacks=("a", "b"))
    clean, robust = compare_outcomes(a, b)
    assert (clean.quantity, clean.a, clean.b, clean.only_a, clean.only_b) == ("clean", 5 / 6, 5 / 6, 1, 1)
    assert (robust.quantity, robust.a, robust.b, robust.only_a, robust.only_b) == ("robust", 0.5, 0.5, 2, 2)
    assert [c.examples for c in (clean, robust)] == [6, 6]


def test_without_attacks_on_both_sides_robustness_is_not_compared(tmp_path):
    a = write(tmp_path / "a.parquet", [STANDS, WRONG])
    b = write(tmp_path / "b.parquet", [STANDS, WRONG], attacks=())
    for pair in ((a, b), (b, a), (b, b)):
        assert [c.quantity for c in compare_outcomes(*pair)] == ["clean"]


def test_the_command_says_why_robustness_is_not_compared(tmp_path, capsys):
    a = write(tmp_path / "a.parquet", [STANDS, WRONG])
    b = write(tmp_path / "b.parquet", [STANDS, WRONG], attacks=())
    assert _run(["compare", str(a), str(b)]) == 0
    said = capsys.readouterr()
    assert [line.split("\t")[0] for line in said.out.splitlines()] == ["clean"]
    assert said.err == "inure: only clean accuracy is compared: A or B was evaluated without an attack\n"


def test_files_folders_and_runs_are_found(tmp_path):
    verdicts = [STANDS, FALLS, WRONG]
    file = write(tmp_path / "run" / "evaluations" / "quick" / "outcomes.parquet", verdicts)
    other = write(tmp_path / "run" / "evaluations" / "pgd20" / "outcomes.parquet", [STANDS, STANDS, WRONG])
    for place in (file, file.parent, tmp_path / "run"):
        assert [c.b for c in compare_outcomes(file, place)] == pytest.approx([2 / 3, 1 / 3])
    assert compare_outcomes(tmp_path / "run", tmp_path / "run", suite="pgd20")[1].a == pytest.approx(2 / 3)
    assert compare_outcomes(other, file)[1].only_a == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"start": 1}, "3 and 3 examples, 2 in common"),
        ({"verdicts": [STANDS, FALLS]}, "3 and 2 examples, 2 in common"),
        ({"labels": {1: 7}}, "3 and 3 examples, 3 in common"),
    ],
)
def test_other_examples_are_refused(tmp_path, change, said):
    verdicts = [STANDS, FALLS, WRONG]
    a = write(tmp_path / "a.parquet", verdicts)
    b = write(tmp_path / "b.parquet", **{"verdicts": verdicts, **change})
    for pair in ((a, b), (b, a)):
        with pytest.raises(UserError, match="^B: got .*; allowed the same examples and labels as A"):
            compare_outcomes(*pair)
    with pytest.raises(UserError, match=said):
        compare_outcomes(a, b)


@pytest.mark.parametrize("content", ["missing", "text", "foreign", "empty"])
def test_what_is_no_outcomes_file_is_one_line_and_exit_code_2(tmp_path, capsys, content):
    good, bad = write(tmp_path / "good.parquet", [STANDS]), tmp_path / "bad.parquet"
    if content == "text":
        bad.write_text("index,label\n")
    elif content == "foreign":
        pq.write_table(pa.table({"image": [b"x"], "label": [1]}), bad)
    elif content == "empty":
        columns = {"index": pa.int64(), "label": pa.int64(), "attack": pa.string(), "robust": pa.bool_()}
        pq.write_table(pa.schema(list(columns.items())).empty_table(), bad)
    assert _run(["compare", str(good), str(bad)]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert len(found.err.splitlines()) == 1
    assert found.err.startswith("inure: B: got ")
    assert _run(["compare", str(bad), str(good)]) == 2
    assert capsys.readouterr().err.startswith("inure: A: got ")


def test_the_command_prints_a_line_a_quantity(tmp_path, capsys):
    a = write(tmp_path / "a" / "outcomes.parquet", [STANDS] * 30 + [FALLS] * 10 + [WRONG] * 10)
    b = write(tmp_path / "b" / "outcomes.parquet", [STANDS] * 10 + [FALLS] * 30 + [STANDS] * 10)
    assert _run(["compare", str(a.parent), str(b)]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["clean", "robust"]
    p = {line[0]: float(line[-1].removeprefix("p=")) for line in lines}
    assert p == pytest.approx({"clean": binomtest(0, 10).pvalue, "robust": binomtest(10, 30).pvalue}, rel=1e-3)
    assert lines[0][1:3] == ["0.8000", "1.0000"]
    assert lines[1][4:6] == ["20", "10"]
