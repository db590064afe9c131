"""Evaluations on several sets: a section of their own, which never becomes the headline."""

import json

import pytest
from synthetic_run import write_run, write_shifted
from test_report_page import Page, percent

from inure.reports import write_report
from inure.reports.run_files import read_run
from inure.reports.scores import headline_key
from inure.reports.shifted import shifted_parts


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = write_run(tmp_path_factory.mktemp("runs") / "digits_pgd_at")
    write_shifted(run / "evaluations" / "corruptions+quick")
    return run


@pytest.fixture(scope="module")
def page(run):
    return Page(write_report([run]))


def summary_of(run):
    return json.loads((run / "evaluations/corruptions+quick/summary.json").read_text())


def test_the_headline_is_an_evaluation_of_one_set(run, page):
    files = read_run(run, "run")
    assert headline_key([files]) == ("quick", "linf:0.1")
    assert [e.summary["suite"] for e in files.shifted] == ["corruptions+quick"]
    assert "Measured with suite quick (pgd20, cw20)" in page.text
    robust = json.loads((run / "evaluations/quick/summary.json").read_text())["robust_accuracy"]
    assert f'<p class="big robust">{100 * robust:.1f}\u00a0%' in page.source
    only = [evaluation for evaluation in files.evaluations if evaluation.summary["suite"] == "clean"]
    assert headline_key([type(files)(run, "run", evaluations=only, shifted=files.shifted)])[0] == "clean"


def test_the_heat_map_shows_every_set_the_darker_the_higher(run, page):
    (part,) = shifted_parts([read_run(run, "run")])
    sets = summary_of(run)["sets"]
    for heat, kind in zip(part.maps, ("clean", "robust"), strict=True):
        assert heat.columns == ["1", "2", "3", "4", "5", "as it is"]
        rows = dict(heat.rows)
        assert [*rows] == ["fog", "glass blur", "imagenet-r:DIR", "mean"]
        for entry in sets:
            name = (entry["corruption"] or "imagenet-r:DIR").replace("_", " ")
            cell = rows[name][heat.columns.index(str(entry["severity"]) if entry["corruption"] else "as it is")]
            assert cell.text == f"{100 * entry[f'{kind}_accuracy']:.1f}"
            assert int(cell.colour[-2:], 16) == round(255 * 0.8 * entry[f"{kind}_accuracy"])
            assert f'style="background: {cell.colour}">{cell.text}</td>' in page.source
        assert rows["fog"][5] is rows["imagenet-r:DIR"][0] is None
        fog = [entry[f"{kind}_accuracy"] for entry in sets if entry["corruption"] == "fog"]
        assert rows["fog"][-1].text == f"{100 * sum(fog) / 5:.1f}"
        assert rows["mean"][-1].text == f"{100 * summary_of(run)['mean'][f'{kind}_accuracy']:.1f}"


def test_means_sets_and_command_are_on_the_page(run, page):
    summary = summary_of(run)
    assert "Suite corruptions+quick · ℓ∞, ε = 0.1" in page.text
    mean = summary["mean"]
    clean, robust = percent(mean["clean_accuracy"]), percent(mean["robust_accuracy"])
    assert f"mean of 11 sets {clean} 10.0 – 90.0 % {robust} 5.0 – 80.0 %" in page.text
    assert f"images as they are {percent(0.95)}" in page.text
    for entry in summary["sets"]:
        assert f"{entry['name']} 60 {percent(entry['clean_accuracy'])}" in page.text
    assert "inure evaluate run --suite corruptions+quick" in page.text


def test_without_attacks_there_is_one_map_and_without_images_as_they_are_no_line(tmp_path):
    run = write_run(tmp_path / "run", suites=())
    nothing = {"clean_accuracy": None, "examples": None, "interval95": {"clean": None, "robust": None}}
    write_shifted(run / "evaluations/shifts", "shifts", plain=False, **nothing)
    page = Page(write_report([run]))
    assert page.text.count("accuracy, %, by severity") == 1
    assert "images as they are" not in page.text
    assert "Not evaluated yet by itself" in page.text
    assert "Only shifted images were measured." in page.text


def test_flags_of_sets_are_among_the_notices(tmp_path):
    run = write_run(tmp_path / "run")
    flag = {"name": "zero_gradient", "severity": "severe", "detail": "9 of 9 (fog; raised in 2 of 11 sets)"}
    write_shifted(run / "evaluations/corruptions+quick", verified=False, flags=[flag])
    page = Page(write_report([run]))
    assert "zero_gradient (suite corruptions+quick): 9 of 9 (fog; raised in 2 of 11 sets)" in page.text
    assert "The robust accuracy under suite corruptions+quick is not verified." in page.text


@pytest.mark.parametrize("sets", [None, 3, [], [None, {"name": 5}], [{"clean_accuracy": 0.5}]])
def test_odd_sets_do_not_break_the_page(tmp_path, sets):
    run = write_run(tmp_path / "run", suites=())
    write_shifted(run / "evaluations/shifts", "shifts", sets=sets, mean=7, interval95="x", command=None)
    assert "Robustness report" in Page(write_report([run])).text


def test_names_of_sets_are_shown_and_not_obeyed(tmp_path):
    run = write_run(tmp_path / "run")
    entry = {"name": "<script>alert(1)</script>", "base": "<b>", "clean_accuracy": 0.5, "examples": 2}
    write_shifted(run / "evaluations/shifts", "shifts", sets=[entry])
    page = Page(write_report([run]))
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text


def test_the_folder_of_such_an_evaluation_has_a_page(tmp_path):
    page = Page(write_report([write_shifted(tmp_path / "out")]))
    assert "Corrupted and shifted images" in page.text
