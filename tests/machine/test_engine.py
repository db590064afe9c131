"""Precision, compilation, and several processes that train one net."""

import os
import re
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from faults import keep_final_weights, signal_at_step
from inure.machine import engine
from inure.machine.engine import Engine
from inure.recipe.recipe import load_recipe
from inure.settings.errors import UserError
from inure.training.train import train
from processes import TINY_ATTACK, Command, Finished, environments, info, inure, records, saved_steps, weights
from warm_commands import warm_shell

# 320 images make 10 whole batches of 32: nothing is wrapped around to be shared equally
RECIPE = (
    "digits/pgd_at", *TINY_ATTACK, "data.examples=477", "data.validation=157", "method.attack.start=zero",
    "optimizer.kind=sgd", "optimizer.lr=0.05", "regime.epsilon=null", "method.attack.threat.epsilon=0.05",
    "engine.accelerator=cpu",
)  # fmt: skip


def tiny(*overrides: str):
    return load_recipe(RECIPE[0], [*RECIPE[1:], *overrides])


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The run of one process that those of two are compared with."""
    torch.set_num_threads(1)
    return train(tiny(), tmp_path_factory.mktemp("alone") / "run", quiet=True)


@pytest.mark.parametrize(
    ("given", "understood"), [("32", "32"), (32, "32"), ("float32", "32"), ("bf16", "bf16"), ("bf16-mixed", "bf16")]
)
def test_precision_has_two_spellings(given, understood):
    assert Engine(precision=given).precision == understood


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "fp16"}, "precision: got fp16; allowed 32"),
        ({"devices": 0}, "devices: got 0; allowed a number >= 1"),
        ({"devices": "both"}, "devices: got both"),
        ({"accelerator": "tpu"}, "accelerator: got tpu; allowed auto | cpu | cuda | mps"),
        ({"threads": 0}, "threads: got 0"),
    ],
)
def test_settings_that_do_not_exist_are_refused(settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        Engine(**settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what the test wants to be missing")
def test_an_accelerator_that_is_not_there_is_refused():
    with pytest.raises(UserError, match=r"engine\.accelerator: got cuda; allowed what this machine has: cpu"):
        engine.accelerator_of(Engine(accelerator="cuda"))
    assert engine.accelerator_of(Engine()) in ("cpu", "mps")


def test_bf16_trains_on_the_cpu_and_keeps_float32_weights(alone, tmp_path):
    run = train(tiny("engine.precision=bf16"), tmp_path / "run", quiet=True)
    half, full = weights(run), weights(alone)
    assert all(t.dtype == torch.float32 for t in half.values())
    assert any(not torch.equal(half[name], full[name]) for name in half), "bf16 changed nothing"
    losses = [[r["train"]["loss"] for r in records(path)] for path in (run, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_the_memory_format_changes_no_more_than_rounding(alone, tmp_path):
    run = train(tiny("engine.channels_last=true", "epochs=1"), tmp_path / "run", quiet=True)
    assert records(run)[0]["train"]["loss"] == pytest.approx(records(alone)[0]["train"]["loss"], rel=1e-2)


@pytest.mark.slow
def test_a_compiled_net_trains_nearly_as_an_eager_one(tmp_path):
    losses = []
    for compiled in ("true", "false"):
        recipe = (*RECIPE, "epochs=1", "averaging.kind=ema", f"engine.compile={compiled}")
        ended = inure("train", *recipe, "--out", compiled, folder=tmp_path)
        assert ended.code == 0, ended.err
        losses.append(records(tmp_path / compiled)[0]["train"]["loss"])
        assert not [name for name in weights(tmp_path / compiled) if "_orig_mod" in name]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


# Several processes


def together(*arguments: str | Path, folder: Path, prepare=None, processes: int = 2) -> list[Finished]:
    """What each of the processes that torchrun would start has to say; they are forked, which is quicker."""
    commands = [Command([*arguments], folder, prepare, environment) for environment in environments(processes)]
    return [command.finish() for command in commands]


def assert_close(run: Path, other: Path, tolerance: float = 1e-3) -> None:
    """Equal but for the order of sums, which the sign of a gradient near zero amplifies."""
    ours, theirs = weights(run), weights(other)
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name], atol=tolerance), name
    pairs = zip(records(run), records(other), strict=True)
    for record, expected in pairs:
        assert record["train"]["loss"] == pytest.approx(expected["train"]["loss"], rel=1e-3)
        assert record["validation"]["clean_loss"] == pytest.approx(expected["validation"]["clean_loss"], rel=1e-2)


@pytest.mark.distributed
def test_two_processes_train_the_net_of_one(alone, tmp_path):
    prepare = partial(keep_final_weights, tmp_path)
    first, second = together("train", *RECIPE, "--out", "run", folder=tmp_path, prepare=prepare)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert first.out.splitlines()[-1] == "run"
    assert (second.out, second.err) == ("", "")
    by_rank = [load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1)]
    assert all(torch.equal(by_rank[0][name], by_rank[1][name]) for name in by_rank[0])
    assert_close(tmp_path / "run", alone)
    assert records(tmp_path / "run")[0]["train"]["loss"] > 0
    trained = info(tmp_path / "run")
    assert trained["data"]["train_examples"] == 320


@pytest.mark.distributed
def test_two_processes_with_deat_hold_equal_weights_and_those_of_one(tmp_path):
    deat = ("optimizer.kind=deat", "optimizer.lr=0.1", "epochs=2")
    single = train(tiny(*deat), tmp_path / "single", quiet=True)
    prepare = partial(keep_final_weights, tmp_path)
    ended = together("train", *RECIPE, *deat, "--out", "run", folder=tmp_path, prepare=prepare)
    assert [one.code for one in ended] == [0, 0], ended[0].err + ended[1].err
    by_rank = [load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1)]
    assert all(torch.equal(by_rank[0][name], by_rank[1][name]) for name in by_rank[0])
    assert_close(tmp_path / "run", single)


@pytest.mark.distributed
def test_two_processes_stop_together_and_resume_exactly(tmp_path):
    """With BatchNorm, whose statistics differ between processes in the middle of an epoch, and EMA of them."""
    recipe = (*RECIPE, "model.name=wrn10_1", "averaging.kind=ema", "method.attack.start=uniform", "epochs=3")
    left, stopped = tmp_path / "left", tmp_path / "stopped"
    assert {r.code for r in together("train", *recipe, "--out", left, folder=tmp_path)} == {0}
    # Both get the signal, as from Ctrl-C or from torchrun; they agree on it at the next step that both look at
    ends = together(
        "train", *recipe, "--out", stopped, folder=tmp_path, prepare=partial(signal_at_step, 16, signal.SIGTERM)
    )
    assert [end.code for end in ends] == [143, 0]
    assert ends[0].out.splitlines()[-1] == str(stopped)
    assert ends[1].out == ""
    assert saved_steps(stopped)[0] % 10 != 0, "not in the middle of an epoch"
    assert {r.code for r in together("train", *recipe, "--out", stopped, "--resume", folder=tmp_path)} == {0}
    for name, tensor in weights(stopped).items():
        assert torch.equal(tensor, weights(left)[name]), name
    for record, expected in zip(records(stopped), records(left), strict=True):
        assert record["validation"] == expected["validation"]
        assert record["train"] == pytest.approx(expected["train"], rel=1e-5)  # summed in another order


@pytest.mark.distributed
def test_two_processes_find_a_finished_run_finished(alone):
    ends = together("train", *RECIPE, "--out", alone, "--resume", folder=alone.parent)
    assert [(end.code, end.out, end.err) for end in ends] == [(0, f"{alone}\n", ""), (0, "", "")]


@pytest.mark.distributed
def test_a_mistake_in_two_processes_is_told_once(tmp_path):
    ends = together("train", *RECIPE, "model.num_classes=7", "--out", "run", folder=tmp_path)
    assert [end.code for end in ends] == [2, 2]
    assert ends[0].err.startswith("inure: model.num_classes: got 7")
    assert [(end.out, end.err.count("\n")) for end in ends] == [("", 1), ("", 0)]


@pytest.mark.distributed
def test_devices_starts_the_processes_and_stdout_ends_with_the_folder_once(alone, tmp_path):
    words = ["inure", "train", *RECIPE, "engine.devices=2", "engine.threads=1", "--out", "run"]
    ended = warm_shell().run(shlex.join(words), tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "run"
    assert ended.stdout.count("run\n") == 1
    assert_close(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    "launcher",
    [
        ["torchrun", "--nproc-per-node", "2", "--master-port", "29561", "-m", "inure"],
        ["fabric", "run", "--accelerator", "cpu", "--devices", "2", "INURE"],
    ],
    ids=["torchrun", "fabric"],
)
def test_launchers_start_the_processes(alone, tmp_path, launcher):
    scripts = Path(sys.executable).parent
    program, *options = [str(scripts / "inure") if word == "INURE" else word for word in launcher]
    ended = _run([str(scripts / program), *options, "train", *RECIPE, "--out", "run"], tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "run"
    assert ended.stdout.count("run\n") == 1
    assert_close(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_signal_to_the_first_of_two_processes_stops_both(tmp_path):
    words = [sys.executable, "-m", "inure", "train", *RECIPE, "epochs=2000", "engine.devices=2", "--out", "run"]
    process = subprocess.Popen(words, cwd=tmp_path, env=_environment(), stdout=subprocess.PIPE, text=True)
    while not records(tmp_path / "run"):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert (process.returncode, out.splitlines()[-1]) == (143, "run")
    assert info(tmp_path / "run")["status"] == "stopped"


@pytest.mark.slow
@pytest.mark.distributed
def test_a_study_of_runs_on_two_devices(tmp_path):
    words = [sys.executable, "-m", "inure", "train", *RECIPE, "epochs=1", "engine.devices=2", "seeds=0,1", "--out", "s"]
    ended = _run(words, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["s"]
    assert len(list((tmp_path / "s").glob("*/seed*/evaluations/quick/summary.json"))) == 2


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def _run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=folder, env=_environment(), capture_output=True, text=True, timeout=400, check=False
    )


@pytest.mark.distributed
def test_in_several_processes_measures_and_validations_change_nothing(tmp_path):
    """Each process has statistics of its own shard, which are made equal after every epoch, looked at or not."""
    common = (*RECIPE, "model.name=wrn10_1", "data.examples=256", "batch_size=64", "epochs=2", "checkpoint.select=last")
    often = ("checkpoint.every=1", "measures=[{kind: alignment, every: 1}]")
    for name, others in {"plain": ("checkpoint.every=2",), "often": often}.items():
        ended = together("train", *common, *others, "--out", name, folder=tmp_path)
        assert [one.code for one in ended] == [0, 0], ended[0].err
    found = {name: weights(tmp_path / name) for name in ("plain", "often")}
    assert any("running_mean" in name for name in found["plain"])
    assert all(torch.equal(value, found["often"][name]) for name, value in found["plain"].items())
