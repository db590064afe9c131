"""Several processes on one study: each run is done once, whoever dies, and none is left out."""

import json
import os
import signal
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from faults import die_at_write
from inure.settings import config, trees
from inure.settings.errors import UserError
from inure.study import Study, run_study
from inure.study.lock import holder_of, take
from processes import TINY, Command, Finished, inure, records

YAML = """
base: digits/standard
set: {set}
axes:
  rate: {{slow: [optimizer.lr=0.001], fast: [optimizer.lr=0.01]}}
against: {{rate: slow}}
seeds: [0, 1]
suite: clean
"""
SET = [*TINY, "epochs=2"]
ARGUMENTS = ("study", "rates.yaml", "--out", "out")


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> list[dict]:
    """The cells of an undisturbed study of one process."""
    folder = tmp_path_factory.mktemp("alone")
    study = Study(
        base="digits/standard",
        set=SET,
        axes={"rate": {"slow": ["optimizer.lr=0.001"], "fast": ["optimizer.lr=0.01"]}},
        against={"rate": "slow"},
        seeds=[0, 1],
        suite="clean",
    )
    return results(run_study(study, folder / "out", quiet=True))


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "rates.yaml").write_text(YAML.format(set=json.dumps(SET)))
    return tmp_path


def results(out: Path) -> list[dict]:
    return json.loads((out / "study.json").read_text())["cells"]


def epochs_of(out: Path) -> set[tuple[int, ...]]:
    """The epochs that runs have recorded: one that two processes trained at once holds some twice."""
    return {tuple(r["epoch"] for r in records(run)) for run in out.glob("*/seed*") if run.is_dir()}


def begun(ended: Finished) -> list[str]:
    """The runs that a process says it has begun."""
    return [line.partition("] ")[2].partition(";")[0] for line in ended.err.splitlines() if line.startswith("[")]


def test_two_processes_share_the_runs_and_both_end_with_the_table(folder, alone):
    commands = [Command(ARGUMENTS, folder) for _ in range(2)]
    ended = [command.finish() for command in commands]
    assert [(one.code, one.out) for one in ended] == [(0, "out\n")] * 2
    counts = Counter(run for one in ended for run in begun(one))
    assert len(counts) == 4
    assert set(counts.values()) == {1}, f"trained twice or never: {counts}"
    assert all(begun(one) for one in ended), "one of them had nothing to do"
    assert epochs_of(folder / "out") == {(1, 2)}
    assert results(folder / "out") == alone
    assert not [*(folder / "out").rglob("*.lock")]


def test_the_run_of_a_killed_process_is_taken_over_by_the_other(folder, alone):
    first = Command(ARGUMENTS, folder)
    out = folder / "out"
    first.wait_until(lambda: (out / "slow" / "seed0" / "run.json").exists())
    second = Command(ARGUMENTS, folder)
    second.wait_until(lambda: len([*out.glob("*/*.lock")]) > 1)
    first.kill()
    assert first.process.exitcode == -signal.SIGKILL
    ended = second.finish()
    assert (ended.code, ended.out) == (0, "out\n")
    assert f"from process {first.process.pid} on" in ended.err
    assert results(out) == alone
    assert not [*out.rglob("*.lock")]


@pytest.mark.parametrize("write", [3, 25])
def test_a_process_that_dies_at_a_write_costs_no_run(folder, alone, write):
    """Wherever it dies, the lock is free, and the next process does what is left."""
    ended = inure(*ARGUMENTS, folder=folder, prepare=partial(die_at_write, write))
    assert ended.code == -signal.SIGKILL
    assert inure(*ARGUMENTS, folder=folder).code == 0
    assert results(folder / "out") == alone


def test_a_run_in_work_elsewhere_is_passed_over_and_waited_for(folder, alone):
    out = folder / "out"
    stopped = Command(ARGUMENTS, folder)
    stopped.wait_until(lambda: (out / "slow" / "seed0" / "run.json").exists())
    stopped.send(signal.SIGSTOP)
    (held,) = out.glob("*/*.lock")
    title = f"{held.parent.name}, {held.stem.replace('seed', 'seed ')}"
    other = Command(ARGUMENTS, folder)
    other.wait_until(lambda: "waiting for" in other.said())
    assert f"{title} (process {stopped.process.pid} on " in other.said()
    assert len([*out.glob("*/seed*.json")]) == 3
    assert other.process.is_alive()
    stopped.send(signal.SIGCONT)
    ended = [stopped.finish(), other.finish()]
    assert [one.code for one in ended] == [0, 0]
    assert begun(ended[0])[-1] == title
    assert title not in begun(ended[1])
    assert results(out) == alone


def _hold(path: str) -> None:
    assert take(Path(path)) is not None
    signal.pause()


def test_a_lock_is_held_by_one_process_and_freed_by_its_death(tmp_path):
    path = tmp_path / "folder" / "run.lock"
    other = Command(["list", "suites"], tmp_path, prepare=partial(_hold, str(path)))
    other.wait_until(lambda: path.exists() and path.stat().st_size > 0)
    assert take(path) is None
    assert take(path, shared=True) is None
    assert holder_of(path).startswith(f"process {other.process.pid} on ")
    other.kill()
    lock = take(path)
    assert lock is not None
    assert lock.left_by.startswith(f"process {other.process.pid} on ")
    lock.release()
    assert not path.exists()
    again = take(path)
    assert again is not None
    assert again.left_by == ""
    again.release()
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize(
    ("devices", "message"), [(1, "--out: got .*, in use; allowed one that is"), (2, "--out: got .*, in use; allowed a")]
)
def test_a_folder_where_each_run_takes_several_devices_is_not_shared(tmp_path, devices, message):
    out = tmp_path / "out"
    study = Study(base="digits/standard", set=[*SET, f"engine.devices={devices}"], suite="clean")
    out.mkdir()
    (out / "study.yaml").write_text(trees.to_yaml(config.dump(study)))
    other = Command(["list", "suites"], tmp_path, prepare=partial(_hold, str(out / "study.lock")))
    other.wait_until(lambda: (out / "study.lock").exists() and (out / "study.lock").stat().st_size > 0)
    with pytest.raises(UserError, match=message):
        run_study(study, out, quiet=True)
    other.kill()
