import json
import re

from synthetic_run import write_run

from inure.evaluation.by_class import by_class
from inure.reports.figures import CLEAN, ROBUST
from inure.reports.long_tail import long_tail_part
from inure.reports.page import write_report

COUNTS = [100, 80, 60, 40, 30, 20, 15, 10, 8, 5]


def add_classes(run, counts, names=None):
    """Put the entry ``classes`` into the summary of ``quick``, from its outcomes."""
    import pyarrow.parquet

    folder = run / "evaluations" / "quick"
    summary = json.loads((folder / "summary.json").read_text())
    table = pyarrow.parquet.read_table(folder / "outcomes.parquet")
    names = names or tuple(str(k) for k in range(10))
    summary["classes"] = by_class(table, names, attacked=True, counts=counts)
    (folder / "summary.json").write_text(json.dumps(summary))
    return summary


def test_a_long_tailed_run_has_its_section(tmp_path):
    run = write_run(tmp_path / "run", suites=("quick",))
    summary = add_classes(run, COUNTS)
    page = write_report([run]).read_text()
    assert "Head, body and tail" in page
    for group in summary["classes"]["groups"]:
        cells = [
            str(group["classes"]),
            f"{group['training_examples']:,}",
            f"{100 * group['robust_accuracy']:.1f}\u00a0%",
        ]
        assert group["name"] in page
        assert all(f"<td>{cell}</td>" in page for cell in cells)
    assert 'id="run0tail-' in page
    assert "the 33.3 % of the classes" in page


def test_bars_by_class_begin_with_the_most_training_images(tmp_path):
    run = write_run(tmp_path / "run", suites=("quick",))
    add_classes(run, COUNTS[::-1])
    page = write_report([run]).read_text()
    bars = page[page.index("Class by class") :]
    assert bars.index("/ 100</span>") < bars.index("/ 80</span>") < bars.index("/ 5</span>")


def test_without_a_long_tail_there_is_no_section(tmp_path):
    run = write_run(tmp_path / "run", suites=("quick",))
    assert "Head, body and tail" not in write_report([run]).read_text()
    add_classes(run, [10] * 10)
    assert "Head, body and tail" not in write_report([run]).read_text()


def test_damaged_entries_are_left_out_not_fatal():
    for classes in (None, [], {"groups": 3}, {"groups": [{}], "each": []}, {"groups": [None], "each": [{}]}):
        assert long_tail_part({"classes": classes}, "a") is None
    part = long_tail_part({"classes": {"groups": [{"name": "head"}], "each": [{}], "cut_offs": None}}, "a")
    assert part is not None
    assert part.cut_offs == ""
    assert part.rows[1] == ("head", "0", "0", "–", "–")


def test_marks_of_one_class_stand_side_by_side(tmp_path):
    run = write_run(tmp_path / "run", suites=("quick",))
    summary = add_classes(run, COUNTS)
    for record in summary["classes"]["each"]:
        record |= {"clean_accuracy": 0.0, "robust_accuracy": 0.0}
    figure = long_tail_part(summary, "a").figure
    marks = {
        colour: [float(x) for x in re.findall(rf'<use [^>]*x="([^"]*)"[^>]*fill: {colour}', figure)]
        for colour in (CLEAN, ROBUST)
    }
    assert len(marks[CLEAN]) == len(marks[ROBUST]) == 10
    assert not {*marks[CLEAN]} & {*marks[ROBUST]}
