"""Grids of recipes and seeds: nothing is done twice, nothing that failed is hidden, nothing of others is touched."""

import importlib
import json
import os
import signal
from pathlib import Path

import pytest
from PIL import Image

from inure.commands import _run
from inure.settings.errors import UserError
from inure.study import Study, load_study, mean_and_deviation, run_study
from inure.study.cells import slug
from processes import TINY, Command, inure, records

SET = [*TINY, "epochs=1", "evaluation.suite=fgsm", "data.examples=400"]
GRID = Study(base="digits/standard", set=SET, grid={"optimizer.lr": [1e-3, 1e-2]}, seeds=[0, 1])


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """GRID, run to its end."""
    return run_study(GRID, tmp_path_factory.mktemp("study") / "out", quiet=True)


@pytest.fixture
def trained(monkeypatch) -> list[Path]:
    """The folders that are trained or found finished, in order."""
    module, folders = importlib.import_module("inure.training.train"), []
    train = module.train

    def watched(recipe, out, **options):
        folders.append(out)
        return train(recipe, out, **options)

    monkeypatch.setattr(module, "train", watched)
    return folders


def results(out: Path) -> list[dict]:
    return json.loads((out / "study.json").read_text())["cells"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_cells_are_all_combinations_and_named_by_what_differs():
    study = Study(base=["digits/standard", "digits/pgd_at"], set=["epochs=1"], grid={"seed": [1, 2], "about": ["x"]})
    cells = list(study.cells())
    assert len(cells) == 4
    assert cells[0].name == "digits/standard, seed=1, about=x"
    assert (cells[0].base, cells[0].overrides) == ("digits/standard", ["epochs=1", "seed=1", 'about="x"'])
    assert [cell.name for cell in GRID.cells()] == ["optimizer.lr=0.001", "optimizer.lr=0.01"]
    assert [cell.name for cell in Study(base="digits/standard").cells()] == ["digits/standard"]


def test_every_cell_has_a_run_and_an_evaluation_for_each_seed(finished):
    assert [cell["name"] for cell in results(finished)] == ["optimizer.lr=0.001", "optimizer.lr=0.01"]
    for cell in results(finished):
        assert (cell["seeds"], cell["failures"]) == ([0, 1], [])
        for position, seed in enumerate(cell["seeds"]):
            run = finished / cell["name"] / f"seed{seed}"
            summary = json.loads((run / "evaluations" / "fgsm" / "summary.json").read_text())
            assert cell["clean_accuracy"][position] == summary["clean_accuracy"]
            assert cell["robust_accuracy"][position] == summary["robust_accuracy"]
            assert f"lr: {cell['name'].partition('=')[2]}" in (run / "recipe.yaml").read_text()
            assert f"seed: {seed}" in (run / "recipe.yaml").read_text()
    clean = results(finished)[1]["clean_accuracy"]
    assert clean[0] != clean[1], "two seeds gave one run"


def test_the_table_and_the_figure_show_all_cells(finished):
    table = (finished / "table.md").read_text().splitlines()
    assert len(table) == 4
    cell = results(finished)[1]
    mean, deviation = mean_and_deviation(cell["clean_accuracy"])
    assert table[3].startswith(f"| optimizer.lr=0.01 | {100 * mean:.1f} ± {100 * deviation:.1f} %")
    with Image.open(finished / "figure.png") as figure:
        assert min(figure.size) > 200


def test_a_report_of_a_study_shows_all_its_runs(finished, tmp_path, capsys):
    assert _run(["report", str(finished), "--out", str(tmp_path / "study.html")]) == 0
    page = (tmp_path / "study.html").read_text()
    runs = [path.parent for path in finished.glob("*/seed*/recipe.yaml")]
    assert len(runs) > 1
    assert all(str(run) in page for run in runs)


def test_mean_and_deviation():
    assert mean_and_deviation([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert mean_and_deviation([0.5]) == (0.5, None)


def test_further_suites_have_a_column_and_differences_are_those_of_the_first(tmp_path):
    axes = {"method": {"one": {"base": "digits/standard"}, "two": ["optimizer.lr=0.1"]}}
    study = Study(
        base="digits/standard", set=SET, axes=axes, also=["clean", "pgd20"], also_examples=50, against={"method": "one"}
    )
    out = run_study(study, tmp_path / "out", quiet=True)
    cells = results(out)
    for cell, name in zip(cells, ("one", "two"), strict=True):
        found = json.loads((out / name / "seed0" / "evaluations" / "pgd20" / "summary.json").read_text())
        assert cell["also"] == {"clean": [None], "pgd20": [found["robust_accuracy"]]}
        assert found["examples"] == 50
    header, _, first, second = (out / "table.md").read_text().splitlines()[:4]
    assert "| clean (mean, sd) | pgd20 (mean, sd) | clean difference |" in header
    assert header.count("|") == first.count("|") == second.count("|")
    with pytest.raises(UserError, match="also: got pgd-20; allowed .*pgd20"):
        Study(base="digits/standard", also=["pgd-20"])


def test_what_is_done_is_not_done_again(finished):
    before = contents(finished)
    run_study(GRID, finished, quiet=True)
    after = contents(finished)
    assert after.keys() == before.keys()
    assert [name for name, value in before.items() if after[name] != value] in ([], ["figure.png"])


def test_another_study_is_refused_and_costs_nothing(finished):
    before = contents(finished)
    other = GRID.model_copy(update={"seeds": [0], "suite": "clean"})
    with pytest.raises(UserError, match=r"--out: got .* \(differs in seeds, suite\)"):
        run_study(other, finished, quiet=True)
    assert contents(finished) == before


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="--out"):
        run_study(GRID, tmp_path, quiet=True)
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_what_a_kill_left_of_a_study_is_no_other_thing(tmp_path):
    (tmp_path / ".study.yaml.x.tmp").write_text("about: ")
    importlib.import_module("inure.study.run")._claim(tmp_path, GRID)
    assert load_study(str(tmp_path / "study.yaml")) == GRID


def test_a_cell_that_fails_is_recorded_and_the_others_go_on(tmp_path):
    study = GRID.model_copy(update={"grid": {"optimizer.lr": [1e30, 1e-2]}, "seeds": [3], "set": [*SET, SGD, NO_CLIP]})
    run_study(study, tmp_path / "out", quiet=True)
    failed, good = results(tmp_path / "out")
    assert (failed["seeds"], failed["clean_accuracy"]) == ([], [])
    assert len(failed["failures"]) == 1
    assert failed["failures"][0].startswith("seed 3: not finite at step ")
    assert (good["seeds"], good["failures"]) == ([3], [])
    rows = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert rows[2].endswith("| 0 | 1 |")
    assert rows[3].endswith("| 1 | 0 |")


SGD, NO_CLIP = "optimizer.kind=sgd", "optimizer.clip_norm=null"


def test_a_study_goes_on_where_it_was_killed(finished, tmp_path, trained):
    """Killed in the second run, then while the third is evaluated: the results are those of an undisturbed study."""
    (tmp_path / "grid.yaml").write_text(
        f"base: digits/standard\nset: {json.dumps(SET)}\ngrid: {{optimizer.lr: [0.001, 0.01]}}\nseeds: [0, 1]\n"
    )
    out = tmp_path / "out"
    places = [
        out / "optimizer.lr=0.001" / "seed1" / "metrics.jsonl",
        out / "optimizer.lr=0.01" / "seed0" / "evaluations",
    ]
    for place in places:
        command = Command(["study", "grid.yaml", "--out", out], tmp_path)
        command.wait_until(lambda place=place: place.exists())
        command.kill()
        assert command.process.exitcode == -signal.SIGKILL
    done = (out / "optimizer.lr=0.001" / "seed0" / "weights.safetensors").stat().st_mtime_ns
    ended = inure("study", "grid.yaml", "--out", out, "-q", folder=tmp_path)
    assert (ended.code, ended.out, ended.err) == (0, f"{out}\n", "")
    assert (out / "optimizer.lr=0.001" / "seed0" / "weights.safetensors").stat().st_mtime_ns == done
    assert results(out) == results(finished)


def test_a_signal_stops_the_study_not_only_its_run(tmp_path):
    command = Command(
        ["train", "digits/standard", *SET, "epochs=200", "seeds=0,1", "--out", "out", "-q"], tmp_path
    )  # fmt: skip
    run = tmp_path / "out" / "digits_standard" / "seed0"
    command.wait_until(lambda: bool(records(run)))
    command.send(signal.SIGTERM)
    ended = command.finish()
    assert (ended.code, ended.out) == (143, "out\n")
    assert ended.err == "inure: stopped by a signal; continue with --out out\n"
    assert not (tmp_path / "out" / "digits_standard" / "seed1").exists()


def test_several_seeds_on_the_command_line_are_a_study(tmp_path):
    ended = inure("train", "digits/standard", *SET, "seeds=0,1", "--out", "out", folder=tmp_path)
    assert ended.code == 0
    assert ended.out == "out\n"
    (cell,) = results(tmp_path / "out")
    assert (cell["name"], cell["seeds"]) == ("digits/standard", [0, 1])
    assert "±" in ended.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suite": "qick"}, "suite: got qick; allowed .*; try quick"),
        ({"seeds": [0, 0]}, "seeds: got .* seeds that differ"),
        ({"seeds": []}, "seeds: got"),
        ({"base": []}, "base: got"),
        ({"grid": {"epochs": []}}, "grid.epochs: got"),
        ({"grids": {}}, "grids: got an unknown field.*did you mean grid"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        Study(**{"base": "digits/standard", **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": {"optimizer.lrr": [1]}}, "optimizer.lrr: got an unknown field"),
        ({"base": ["digits/standard", "digits/standart"]}, "RECIPE: got digits/standart"),
        ({"set": ["epochs=0"]}, "epochs: got 0"),
    ],
)
def test_a_mistake_in_any_cell_is_found_before_the_first_one_runs(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        run_study(GRID.model_copy(update=changes), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_long_names_that_differ_at_their_end_have_folders_of_their_own():
    names = ["x" * 130 + end for end in ("1", "2")]
    assert slug(names[0]) != slug(names[1])
    assert max(len(slug(name)) for name in names) <= 120
    assert os.sep not in slug("digits/standard, a=b")


def test_shipped_studies_load():
    study = load_study("digits_methods")
    assert study.seeds == [0, 1]
    assert len(list(study.cells())) == 4
