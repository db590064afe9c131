"""Runs that are killed, stopped, starved or damaged end with the bits of one that was left in peace."""

import json
import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from faults import die_at_write, no_space_from_write, signal_at_step
from inure.runs.checkpoints import Checkpoints
from processes import (
    TINY_ATTACK,
    Command,
    assert_same_run,
    begun,
    info,
    inure,
    newest_checkpoint,
    records,
    saved_steps,
)

JOINTS = (
    "averaging.kind=ema",
    "perturbation.kind=awp",
    "augment.crop_padding=1",
    "augment.flip=true",
    "augment.mixup=0.5",
)
CNN = ("digits/pgd_at", *TINY_ATTACK, *JOINTS, "optimizer.lr=0.01")
TRICKS = (
    "crafting.attention_dropping={warmup: 1, per_example: true}",
    "crafting.perturbation_masking={warmup: 0.5, patch: 2}",
    "crafting.token_dropping.rate=0.2",
)
NET = ("model.name=vit_digits", "model.drop_path=0.2", "batch_size=64", "data.examples=359")
VIT = ("digits/trades", *TINY_ATTACK, *JOINTS, *TRICKS, *NET)
RECIPES = {"cnn": CNN, "vit": VIT}
STEPS_PER_EPOCH = 11


@pytest.fixture(scope="module")
def references(tmp_path_factory) -> dict[str, Path]:
    """A run of each recipe that nothing disturbed."""
    folder = tmp_path_factory.mktemp("references")
    for name, recipe in RECIPES.items():
        assert inure("train", *recipe, "--out", name, folder=folder).code == 0
    return {name: folder / name for name in RECIPES}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A run of CNN that was stopped in its third epoch: to be copied, not used."""
    folder = tmp_path_factory.mktemp("stopped")
    ended = inure("train", *CNN, "--out", "run", folder=folder, prepare=partial(signal_at_step, 30, signal.SIGTERM))
    assert ended.code == 143
    return folder / "run"


@pytest.fixture
def halfway(stopped, tmp_path) -> Path:
    """A copy of ``stopped``."""
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def resume(run: Path, *, recipe=CNN, prepare=None):
    return inure("train", *recipe, "--out", run, "--resume", folder=run.parent, prepare=prepare)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(("name", "kills", "seed"), [("cnn", 5, 0), ("vit", 2, 1)])
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(references, tmp_path, name, kills, seed):
    moments, run = random.Random(seed), tmp_path / "run"
    epoch = info(references[name])["seconds"] / 4
    survived = 0
    while survived < kills:
        before = begun(run)
        command = Command(["train", *RECIPES[name], "--out", run, "--resume"], tmp_path)
        command.wait_until(lambda before=before: begun(run) != before)
        time.sleep(moments.uniform(0, 1.5 * epoch))
        command.kill()
        if command.process.exitcode == 0:
            break  # it was quicker than the kill
        assert command.process.exitcode == -signal.SIGKILL
        survived += 1
        reached = max([record["step"] for record in records(run)], default=0)
        saved = max(saved_steps(run), default=0)
        assert reached - saved <= STEPS_PER_EPOCH, "more than one checkpoint interval would be repeated"
    assert survived >= 2
    newest = max(saved_steps(run), default=0)
    assert resume(run, recipe=RECIPES[name]).code == 0
    # Of a run whose steps were all done there is nothing to resume
    assert newest in (0, 4 * STEPS_PER_EPOCH) or records(run, "resume")[-1]["step"] == newest
    assert_same_run(run, references[name])


def test_a_run_killed_while_it_writes_ends_with_the_same_bits(references, tmp_path):
    run, places = tmp_path / "run", [1, 3, 6, 13, 16, 9, 21, 18, 11]
    for place in places:
        assert resume(run, prepare=partial(die_at_write, place)).code == -signal.SIGKILL
    assert resume(run).code == 0
    assert_same_run(run, references["cnn"])
    assert not list(run.rglob("*.tmp"))


@pytest.mark.slow
def test_there_is_no_bad_moment_to_be_killed_while_writing(references, tmp_path):
    place, code = 1, -signal.SIGKILL
    while code != 0:
        run = tmp_path / f"run{place}"
        code = resume(run, prepare=partial(die_at_write, place)).code
        assert code in (0, -signal.SIGKILL)
        assert resume(run).code == 0
        assert_same_run(run, references["cnn"])
        place += 1
    assert place > 40


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_in_the_middle_of_an_epoch_and_leaves(references, tmp_path, number, code):
    run = tmp_path / "run"
    ended = inure("train", *CNN, "--out", run, "-q", folder=tmp_path, prepare=partial(signal_at_step, 16, number))
    assert ended.code == code
    assert ended.out.splitlines() == [str(run)]
    assert ended.err == f"inure: stopped by a signal; continue with --out {run} --resume\n"
    assert saved_steps(run) == [16, 11]
    assert info(run)["status"] == "stopped"
    assert [(r["reason"], r["step"]) for r in records(run, "stop")] == [("signal", 16)]
    assert resume(run).code == 0
    assert [r["step"] for r in records(run, "resume")] == [16]
    assert_same_run(run, references["cnn"])


def test_a_signal_from_outside_saves_and_leaves(references, tmp_path):
    run = tmp_path / "run"
    command = Command(["train", *CNN, "--out", run], tmp_path)
    command.wait_until(lambda: bool(records(run)))
    command.send(signal.SIGTERM)
    assert command.finish().code == 143
    assert resume(run).code == 0
    assert_same_run(run, references["cnn"])


def test_a_signal_at_the_last_step_of_an_epoch_loses_nothing(references, tmp_path):
    run = tmp_path / "run"
    at_end = partial(signal_at_step, STEPS_PER_EPOCH, signal.SIGTERM)
    assert inure("train", *CNN, "--out", run, folder=tmp_path, prepare=at_end).code == 143
    assert (saved_steps(run), records(run)) == ([11], [])
    assert resume(run).code == 0
    assert_same_run(run, references["cnn"])


def test_max_minutes_leaves_with_code_0_and_each_visit_gets_further(references, tmp_path):
    run = tmp_path / "run"
    for visit in (1, 2, 3):
        ended = inure("train", *CNN, "--out", run, "--resume", "--max-minutes", "1e-6", "-q", folder=tmp_path)
        assert (ended.code, ended.out) == (0, f"{run}\n")
        assert ended.err == f"inure: stopped by --max-minutes; continue with --out {run} --resume\n"
        assert saved_steps(run)[0] == visit
        assert (info(run)["status"], info(run)["step"]) == ("stopped", visit)
    assert {record["reason"] for record in records(run, "stop")} == {"max_minutes"}
    assert resume(run).code == 0
    assert_same_run(run, references["cnn"])


def test_resuming_a_finished_run_prints_its_folder_and_changes_nothing(references):
    run = references["cnn"]
    before = contents(run)
    ended = resume(run)
    assert (ended.code, ended.out, ended.err) == (0, f"{run}\n", "")
    assert contents(run) == before


@pytest.mark.parametrize("kind", ["absent", "empty", "leftovers"])
def test_resume_starts_from_step_0_where_nothing_was_saved(references, tmp_path, kind):
    run = tmp_path / "run"
    if kind != "absent":
        run.mkdir()
    if kind == "leftovers":
        (run / ".recipe.yaml.x.tmp").write_text("seed: 0\nepo")
    recipe = (*CNN, "epochs=1")
    assert resume(run, recipe=recipe).code == 0
    assert not records(run, "resume")
    assert info(run)["step"] == STEPS_PER_EPOCH


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def damage_alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [damage_truncate, damage_alter, Path.unlink])
def test_a_damaged_newest_checkpoint_is_refused_and_the_one_before_used(references, halfway, damage):
    newest = newest_checkpoint(halfway)
    assert saved_steps(halfway) == [30, 22]
    damage(newest)
    ended = resume(halfway)
    assert ended.code == 0
    warnings = [line for line in ended.err.splitlines() if newest.name in line]
    assert len(warnings) == 1
    assert "refused" in warnings[0]
    assert [record["step"] for record in records(halfway, "resume")] == [22]
    assert_same_run(halfway, references["cnn"])


def test_the_checkpoint_of_another_recipe_is_refused_and_the_one_before_used(references, halfway, tmp_path):
    other = tmp_path / "other"
    recipe = (*CNN, "optimizer.lr=0.02", "epochs=3")
    assert inure("train", *recipe, "--out", other, folder=tmp_path).code == 0
    graft(newest_checkpoint(other), halfway, step=33)
    ended = resume(halfway)
    assert ended.code == 0
    assert "refused: written by a run with another recipe" in ended.err
    assert [record["step"] for record in records(halfway, "resume")] == [30]
    assert_same_run(halfway, references["cnn"])


def graft(checkpoint: Path, run: Path, *, step: int) -> None:
    """Make another run's checkpoint the newest of ``run``, with its own good hash."""
    index = run / "checkpoints" / "index.json"
    theirs = json.loads((checkpoint.parent / "index.json").read_text())[0]
    index.write_text(json.dumps([{**theirs, "step": step}, *json.loads(index.read_text())]))
    shutil.copy(checkpoint, run / "checkpoints")


def test_with_no_good_checkpoint_left_the_run_is_refused_with_one_line(halfway):
    for path in halfway.glob("checkpoints/*.pt"):
        damage_truncate(path)
    before = contents(halfway / "checkpoints")
    ended = resume(halfway)
    assert (ended.code, ended.out) == (2, "")
    assert len(ended.err.splitlines()) == 1
    assert ended.err.startswith(f"inure: {halfway / 'checkpoints'}: got 2 and none is good")
    assert "truncated or altered" in ended.err
    assert contents(halfway / "checkpoints") == before


def test_other_settings_are_refused_and_named(halfway):
    before = contents(halfway)
    recipe = (*CNN, "optimizer.lr=0.5", "method.attack.steps=3", "about=words do not count")
    ended = resume(halfway, recipe=recipe)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("inure: --resume: got other settings (method.attack.steps, optimizer.lr)")
    assert contents(halfway) == before


def test_a_run_is_not_trained_over(halfway):
    before = contents(halfway)
    ended = inure("train", *CNN, "--out", halfway, folder=halfway.parent)
    assert (ended.code, ended.out) == (2, "")
    assert "this one holds a run" in ended.err
    assert contents(halfway) == before


@pytest.mark.parametrize("options", [[], ["--resume"]])
def test_a_folder_with_other_files_is_refused(tmp_path, options):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.tex").write_text("words")
    ended = inure("train", *CNN, "--out", folder, *options, folder=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("inure: --out: got")
    assert contents(folder) == {"chapter1.tex": b"words"}


def test_a_mistake_that_kept_a_run_from_beginning_does_not_cost_its_name(tmp_path):
    run = tmp_path / "run"
    refused = inure("train", *CNN, "data.source=nowhere", "--out", run, folder=tmp_path)
    assert refused.code == 2
    ended = inure("train", *CNN, "epochs=1", "--out", run, folder=tmp_path)
    assert ended.code == 0
    assert "source: digits" in (run / "recipe.yaml").read_text()


@pytest.mark.parametrize("place", [1, 8, 13])
def test_no_space_left_ends_with_one_line_and_costs_nothing(references, halfway, place):
    ended = resume(halfway, prepare=partial(no_space_from_write, place))
    assert (ended.code, ended.out) == (2, "")
    line = ended.err.splitlines()[-1]
    assert line.startswith(f"inure: {halfway}")
    assert "no space left" in line
    assert "Traceback" not in ended.err
    recipe_hash = Checkpoints(halfway / "checkpoints")
    assert recipe_hash.newest() != "none"
    assert not list(halfway.rglob("*.tmp"))
    assert resume(halfway).code == 0
    assert_same_run(halfway, references["cnn"])


def test_an_optimizer_whose_two_averages_take_turns_continues_at_an_odd_step(tmp_path):
    """DEAT: a resume that took the older average for the newer one would end elsewhere."""
    recipe = [*CNN, "optimizer.kind=deat", "optimizer.lr=0.1", "epochs=2"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert inure("train", *recipe, "--out", whole, folder=tmp_path).code == 0
    stop = partial(signal_at_step, 15, signal.SIGTERM)
    assert inure("train", *recipe, "--out", run, folder=tmp_path, prepare=stop).code == 143
    assert resume(run, recipe=recipe).code == 0
    assert_same_run(run, whole)
