"""What a study reports: paired differences, checked by hand; runs that start from runs; failures; table and figure."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from inure.commands import _run
from inure.settings.errors import UserError
from inure.study import Study, load_study, run_study
from inure.study.figure import figure_of
from inure.study.progress import duration
from inure.study.results import CellResult, Difference
from inure.study.table import header_of, rows_of, short_table
from processes import TINY, begun

SET = [*TINY, "epochs=2", "optimizer.lr=0.02", "data.examples=400", "batch_size=64"]
STUDY = Study(
    about="From nothing or from a clean net, and one rate that is far too high.",
    base="digits/pgd_at",
    set=[*SET, "method.attack.steps=2"],
    before={
        "clean": {"base": "digits/standard", "set": SET},
        "longer": {"base": "digits/standard", "set": [*SET, "model.weights={clean}"]},
    },
    axes={
        "start": {"none": [], "clean": ["model.weights={clean}"], "longer": ["model.weights={longer}"]},
        "rate": {"good": [], "huge": ["optimizer.kind=sgd", "optimizer.lr=1e30"]},
    },
    against={"start": "none"},
    seeds=[0, 3],
    suite="fgsm",
)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return run_study(STUDY, tmp_path_factory.mktemp("study") / "out", quiet=True)


def cells(out: Path) -> dict[str, dict]:
    return {cell["name"]: cell for cell in json.loads((out / "study.json").read_text())["cells"]}


def right(out: Path, name: str, seed: int) -> np.ndarray:
    """(N, 2): right on the clean image, and standing to the end, by the outcomes file."""
    folder = out / name.replace(", ", "__") / f"seed{seed}" / "evaluations" / "fgsm"
    found: dict[int, list[bool]] = {}
    for row in pq.read_table(folder / "outcomes.parquet").to_pylist():
        found.setdefault(row["index"], []).append(row["robust"])
    return np.array([[verdicts[0], all(verdicts)] for _, verdicts in sorted(found.items())], float)


def test_differences_are_paired_by_seed_and_by_example(out):
    cell = cells(out)["clean, good"]
    assert cell["against"] == "none, good"
    for column, quantity in enumerate(("clean", "robust")):
        found = cell["differences"][quantity]
        means = []
        for entry, seed in zip(found["by_seed"], (0, 3), strict=True):
            paired = (right(out, "clean, good", seed) - right(out, "none, good", seed))[:, column]
            half = 1.959964 * paired.std() / np.sqrt(len(paired))
            assert entry["seed"] == seed
            assert entry["difference"] == pytest.approx(paired.mean())
            assert entry["interval95"] == pytest.approx([paired.mean() - half, paired.mean() + half], abs=1e-6)
            assert 0 <= entry["p_value"] <= 1
            means.append(paired.mean())
        assert found["mean"] == pytest.approx(np.mean(means))
        assert found["sd"] == pytest.approx(np.std(means, ddof=1))
        assert cell[quantity]["mean"] == pytest.approx(np.mean(cell[f"{quantity}_accuracy"]))
        assert cell[quantity]["sd"] == pytest.approx(np.std(cell[f"{quantity}_accuracy"], ddof=1))
    assert any(entry["difference"] for entry in cell["differences"]["clean"]["by_seed"]), "nothing differs"


def test_runs_before_are_trained_once_a_seed_and_started_from(out):
    before = out / "before"
    assert sorted(str(p.parent.relative_to(before)) for p in before.glob("*/*/recipe.yaml")) == [
        "clean/seed0", "clean/seed3", "longer/seed0", "longer/seed3"
    ]  # fmt: skip
    assert not [*before.rglob("evaluations")]
    for seed in (0, 3):
        recipe = (out / "clean__good" / f"seed{seed}" / "recipe.yaml").read_text()
        assert f"weights: {(before / 'clean' / f'seed{seed}').resolve()}\n" in recipe
        recipe = (before / "longer" / f"seed{seed}" / "recipe.yaml").read_text()
        assert f"weights: {(before / 'clean' / f'seed{seed}').resolve()}\n" in recipe
    first, second = (load_file(before / "clean" / f"seed{s}" / "weights.safetensors") for s in (0, 3))
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_cells_that_fail_are_told_and_compared_with_nothing(out):
    for name in ("none, huge", "clean, huge"):
        cell = cells(out)[name]
        assert (cell["seeds"], cell["clean"]) == ([], {"mean": None, "sd": None})
        assert [failure.partition(": ")[0] for failure in cell["failures"]] == ["seed 0", "seed 3"]
    assert cells(out)["clean, huge"]["differences"]["robust"] == {"mean": None, "sd": None, "by_seed": []}
    assert cells(out)["none, good"]["differences"] == {}


def test_a_failure_is_not_tried_again_until_its_record_is_gone(out):
    record = out / "none__huge" / "seed0.json"
    assert json.loads(record.read_text())["failure"].startswith("not finite at step ")
    run = out / "none__huge" / "seed0"
    before = begun(run)
    run_study(STUDY, out, quiet=True)
    assert begun(run) == before
    record.unlink()
    run_study(STUDY, out, quiet=True)
    assert begun(run) > before
    assert record.exists()


def test_what_starts_from_a_run_that_failed_fails_too(tmp_path):
    study = Study(
        base="digits/standard",
        set=SET,
        before={"wild": {"base": "digits/standard", "set": [*SET, "optimizer.kind=sgd", "optimizer.lr=1e30"]}},
        axes={"start": {"none": [], "wild": ["model.weights={wild}"]}},
        suite="clean",
    )
    found = cells(run_study(study, tmp_path / "out", quiet=True))
    assert found["wild"]["failures"][0].startswith("seed 0: before: wild: not finite at step")
    assert found["none"]["seeds"] == [0]
    assert not (tmp_path / "out" / "wild" / "seed0").exists()


def test_the_table_has_columns_of_differences(out):
    head, _, *rows = (out / "table.md").read_text().splitlines()
    assert head.startswith("| run | clean (mean, sd) | robust (mean, sd) | robust by seed | clean difference |")
    by_name = {row.split(" | ")[0].removeprefix("| "): row for row in rows}
    assert "| reference | reference |" in by_name["none, good"]
    cell = cells(out)["longer, good"]["differences"]["robust"]
    low, high = cell["by_seed"][0]["interval95"]
    first = f"{100 * cell['by_seed'][0]['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]; "
    assert f"| {100 * cell['mean']:+.1f} ± {100 * cell['sd']:.1f} | {first}" in by_name["longer, good"]
    assert by_name["clean, huge"].endswith("| - | - | - | 0 | 2 |")


def test_one_seed_has_no_deviation_and_no_reference_no_columns():
    cell = CellResult("a", "b", [], {}, [0], [0.5], [None], [])
    assert rows_of([cell]) == [["a", "50.0 %", "-", "-", 1, 0]]
    assert len(header_of([cell])) == 6
    assert short_table([cell]) == (["run", "clean", "robust", "seeds"], [["a", "50.0 %", "-", "1"]])


def test_another_scale_in_the_same_folder_is_refused(tmp_path):
    study = Study(base="digits/standard", set=SET, suite="clean", scales={"smoke": {}, "gpu": {"set": ["epochs=3"]}})
    out = run_study(study, tmp_path / "out", quiet=True)
    assert load_study(str(out / "study.yaml")).scale == "smoke"
    assert json.loads((out / "study.json").read_text())["scale"] == "smoke"
    with pytest.raises(UserError, match=r"--scale: got gpu; allowed smoke, the scale of .*; try another --out"):
        run_study(study, out, scale="gpu", quiet=True)
    with pytest.raises(UserError, match=r"--scale: got gpu; allowed smoke, whose study this is"):
        load_study(str(out / "study.yaml")).at("gpu")


def test_cells_that_are_measured_in_two_ways_are_not_compared(tmp_path):
    radius = {"epsilon": {"large": [], "small": ["evaluation.threat.epsilon=0.05"]}}
    study = Study(base="digits/pgd_at", axes=radius, against={"epsilon": "large"})
    with pytest.raises(UserError, match=r"against: got small against large, evaluated in another way"):
        run_study(study, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_the_command_takes_scale_settings_and_seeds(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = f"base: digits/standard\nset: {json.dumps(SET)}\nsuite: clean\nscales: {{smoke: {{}}, gpu: {{}}}}\n"
    Path("mine.yaml").write_text(text)
    assert _run(["study", "mine.yaml", "epochs=1", "seeds=5", "--scale", "gpu", "--out", "out", "-q"]) == 0
    assert capsys.readouterr().out == "out\n"
    study = load_study("out/study.yaml")
    assert (study.scale, study.set, study.seeds) == ("gpu", [*SET, "epochs=1"], [5])
    assert "epochs: 1\n" in Path("out/digits_standard/seed5/recipe.yaml").read_text()
    assert _run(["study", "digits_methods", "--scale", "gpu"]) == 2
    assert capsys.readouterr().err.startswith("inure: --scale: got gpu; allowed nothing: this study has one form")


@pytest.mark.parametrize("compared", [True, False])
def test_the_figure_grows_with_the_cells(compared):
    def picture(count: int) -> tuple[int, int]:
        paired = [Difference(s, 0.1, (0.05, 0.15), 0.01) for s in (0, 1)]
        made = [
            CellResult(
                f"cell {i}", "b", [], {}, [0, 1], [0.9, 0.8], [0.5, None], [], "cell 0" if compared and i else None,
                {"clean": paired, "robust": []} if compared and i else {},
            )
            for i in range(count)
        ]  # fmt: skip
        with Image.open(
            io.BytesIO(figure_of([*made, CellResult("no", "b", [], {}, [], [], [], ["seed 0: x"])]))
        ) as png:
            return png.size

    assert picture(12)[1] > picture(3)[1]
    assert (picture(3)[0] > 1500) == compared


def test_durations_are_short():
    assert [duration(s) for s in (40.2, 98, 150, 5990, 11100)] == ["40 s", "98 s", "2 min", "1 h 40 min", "3 h 05 min"]
