"""``inure evaluate``: what it needs, where it writes, what it prints, how it ends."""

import json
import shlex

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import inure
from inure.commands import _run
from inure.data import load as load_images
from inure.evaluation import evaluate
from inure.models import Model, build
from inure.recipe.recipe import load_recipe
from inure.runs.load import load
from inure.targets.evaluate import evaluate_target
from inure.targets.request import Request
from inure.targets.target import parse_mode
from inure.training.train import train
from warm_commands import warm_shell

NET_FILE = """
import torch
from torch import nn

from inure.models import Model, build


def cnn():
    return build(Model(name="cnn_tiny"), num_classes=10, shape=(1, 8, 8))


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def colour():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 10))


def few():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))


def broken():
    raise OSError("no such disk")


def number():
    return 3
"""
NEEDS = {"--threat": "linf:0.1", "--data": "digits", "--out": "results"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """``net.py`` and ``run``, a tiny CNN that trained for a few epochs on digits."""
    folder = tmp_path_factory.mktemp("target")
    (folder / "net.py").write_text(NET_FILE)
    changes = ["model.name=cnn_tiny", "epochs=5", "optimizer.lr=0.02", "evaluation.threat.epsilon=0.04"]
    train(load_recipe("digits/standard", changes), folder / "run", quiet=True)
    return folder


@pytest.fixture(autouse=True)
def _there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def options(chosen: dict[str, str]) -> str:
    return " ".join(f"{name} {value}" for name, value in chosen.items())


def ended(capsys, line: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command line."""
    code = _run(shlex.split(line))
    return code, *capsys.readouterr()


def summary_at(path) -> dict:
    return json.loads((path / "summary.json").read_text())


def test_a_run_is_evaluated_as_its_recipe_says(folder, capsys):
    code, out, err = ended(capsys, "evaluate run")
    assert (code, out) == (0, "run/evaluations/quick\n")
    summary = summary_at(folder / "run/evaluations/quick")
    assert (summary["suite"], summary["threat"], summary["examples"]) == ("quick", "linf:0.04", 360)
    net, digits = load("run"), load_images("digits", "test")
    expected = evaluate(net, digits, suite="quick", threat="linf:0.04")
    assert summary["clean_accuracy"] == expected.summary["clean_accuracy"] > 0.3
    assert summary["robust_accuracy"] == expected.summary["robust_accuracy"]
    # The table shows what the file says
    for share in (summary["clean_accuracy"], *(a["robust_accuracy"] for a in summary["attacks"])):
        assert f"{100 * share:.1f} %" in err


def test_options_go_before_the_recipe(folder, capsys):
    line = "evaluate run --suite fgsm --threat l2:0.3 --examples 40 --seed 3 --out elsewhere --quiet"
    assert ended(capsys, line) == (0, "elsewhere\n", "")
    summary = summary_at(folder / "elsewhere")
    assert (summary["suite"], summary["threat"], summary["examples"]) == ("fgsm", "l2:0.3", 40)
    assert summary["seed"] == 3
    assert ended(capsys, "evaluate run --suite clean -q") == (0, "run/evaluations/clean\n", "")


def test_examples_are_the_first_rows(folder, capsys):
    assert ended(capsys, "evaluate run --suite clean --examples 17 --out first -q")[0] == 0
    table = pq.read_table(folder / "first/outcomes.parquet")
    digits = load_images("digits", "test")
    assert table["index"].to_pylist() == digits.index[:17].tolist() == list(range(17))
    assert table["label"].to_pylist() == digits.labels[:17].tolist()
    assert ended(capsys, "evaluate run --suite clean --examples 5000 --out all -q")[0] == 0
    assert summary_at(folder / "all")["examples"] == 360


def test_the_command_in_the_summary_repeats_the_evaluation(folder, capsys):
    assert ended(capsys, "evaluate run --suite pgd20 --threat linf:0.05 --examples 30 -q --out 'a folder'")[0] == 0
    first = summary_at(folder / "a folder")
    (folder / "a folder").rename(folder / "moved")
    words = shlex.split(first["command"])
    assert words[0] == "inure"
    assert _run([*words[1:], "--quiet"]) == 0
    again = summary_at(folder / "a folder")
    assert again["protocol"] == first["protocol"]
    assert again["robust_accuracy"] == first["robust_accuracy"]


def test_training_images_are_flagged(folder, capsys):
    code, _, err = ended(capsys, "evaluate run --suite clean --data digits#train --examples 50 --out seen")
    assert code == 0
    summary = summary_at(folder / "seen")
    assert [flag["name"] for flag in summary["flags"]] == ["training_images"]
    assert summary["verified"] is False
    assert "warning: training_images" in err


@pytest.mark.parametrize(("bar", "code"), [("0", 0), ("1", 3), ("exact", 0)])
@pytest.mark.parametrize("suite", ["clean", "fgsm"])
def test_fail_under_is_a_gate_on_the_last_number(folder, capsys, suite, bar, code):
    ended(capsys, f"evaluate run --suite {suite} --examples 50 --out gate -q")
    summary = summary_at(folder / "gate")
    accuracy = summary["clean_accuracy"] if suite == "clean" else summary["robust_accuracy"]
    bar = repr(accuracy) if bar == "exact" else bar
    line = f"evaluate run --suite {suite} --examples 50 --out gate -q --fail-under {bar}"
    said = f"inure: --fail-under: accuracy {accuracy:.4f} is under 1.0\n" if code else ""
    assert ended(capsys, line) == (code, "gate\n", said)


def test_the_results_before_are_kept_under_previous(folder, capsys):
    for number, seed in enumerate((1, 2, 3)):
        code, _, err = ended(capsys, f"evaluate run --suite fgsm --examples 20 --out again --seed {seed}")
        assert (code, "are now in again/previous" in err) == (0, number > 0)
    names = ("summary.json", "outcomes.parquet", "examples.safetensors")
    assert all((folder / "again" / place / name).is_file() for place in ("", "previous") for name in names)
    assert (summary_at(folder / "again")["seed"], summary_at(folder / "again/previous")["seed"]) == (3, 2)


def test_a_function_of_a_file_is_evaluated_with_quick_by_default(folder, capsys):
    code, out, _ = ended(capsys, "evaluate net.py:linear " + options(NEEDS))
    assert (code, out) == (0, "results\n")
    summary = summary_at(folder / "results")
    assert (summary["suite"], summary["threat"], summary["examples"]) == ("quick", "linf:0.1", 360)


@pytest.mark.parametrize("missing", NEEDS)
def test_a_function_needs_threat_data_and_out(capsys, missing):
    line = "evaluate net.py:linear " + options({k: v for k, v in NEEDS.items() if k != missing})
    code, out, err = ended(capsys, line)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"inure: {missing}: got ")
    assert f"try {missing}" in err


def test_weights_are_loaded_into_the_function(folder, capsys):
    line = "evaluate net.py:cnn --weights run/weights.safetensors --suite clean -q " + options(NEEDS)
    assert ended(capsys, line)[0] == 0
    assert ended(capsys, "evaluate run --suite clean --out same -q")[0] == 0
    ours, theirs = (pq.read_table(folder / name / "outcomes.parquet") for name in ("results", "same"))
    assert ours.equals(theirs)


NET = "evaluate net.py:"
GIVEN = " " + options(NEEDS)
MISTAKES = {
    "unknown suite": ("evaluate run --suite pgd21", "--suite: got pgd21; allowed clean | fgsm | pgd20"),
    "unknown threat": ("evaluate run --threat foo:1", "--threat: got foo:1; allowed KIND:EPSILON"),
    "wrong radius": ("evaluate run --threat linf:8", "--threat: got 8; allowed 0 to 1"),
    "no such run": ("evaluate nowhere", "TARGET: got nowhere; allowed a run directory"),
    "no such file": ("evaluate no.py:net" + GIVEN, "got no.py; allowed an existing Python file"),
    "no such function": (NET + "lineer" + GIVEN, "got net.py:lineer; allowed a function of net.py"),
    "function fails": (NET + "broken" + GIVEN, "no such disk"),
    "no net": (NET + "number" + GIVEN, "allowed a function that returns an nn.Module"),
    "no such data": ("evaluate run --data nodata", "--data: got nodata"),
    "net for other images": (NET + "colour" + GIVEN, "a net for images of (1, 8, 8)"),
    "labels beyond": (NET + "few" + GIVEN, "labels: got classes 0 to 9; allowed 0 to 6"),
    "weights of another net": (
        NET + "linear --weights run/weights.safetensors" + GIVEN,
        "2 missing: net.1.weight, net.1.bias, 6 unexpected: net.conv1.bias, net.conv1.weight",
    ),
    "no such weights": ("evaluate run --weights no.pt", "weights: got no.pt; allowed an existing file"),
    "out is a file": ("evaluate run --out net.py", "--out: got net.py; allowed a folder"),
    "mode without domains": ("evaluate run --mode robust", "--mode: got robust; allowed no mode"),
    "mode without numbers": ("evaluate run --mode clean=x", "--mode: got x; allowed a number"),
    "no examples": ("evaluate run --examples 0", "--examples: got 0; allowed a whole number >= 1"),
    "empty batch": ("evaluate run --batch-size 0", "--batch-size: got 0"),
    "bar": ("evaluate run --fail-under 40", "--fail-under: got 40.0; allowed a fraction in [0, 1]"),
    "device": ("evaluate run --device gpu", "--device: got gpu; allowed auto | cpu | cuda | mps"),
    "devices": ("evaluate run --devices 0", "--devices: got 0; allowed a number >= 1"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_on_stderr_and_exit_code_2(capsys, name):
    line, said = MISTAKES[name]
    code, out, err = ended(capsys, line + " --quiet")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("inure: ")
    assert said in err


def test_images_of_another_size_than_the_run_s_are_refused(capsys, tmp_path):
    for k in range(3):
        (tmp_path / "test" / str(k)).mkdir(parents=True)
        Image.fromarray(np.full((9, 9), 20 * k, "uint8")).save(tmp_path / "test" / str(k) / "a.png")
    code, _, err = ended(capsys, f"evaluate run --data {tmp_path} -q")
    assert code == 2
    assert "--data: got images of (1, 9, 9); allowed (1, 8, 8)" in err


def test_resume_of_a_finished_evaluation_and_with_other_settings(folder, capsys):
    line = "evaluate run --suite pgd20 --examples 30 --out again -q"
    assert ended(capsys, line)[0] == 0
    before = (folder / "again/summary.json").read_bytes()
    assert ended(capsys, line + " --resume") == (0, "again\n", "")
    assert (folder / "again/summary.json").read_bytes() == before
    code, _, err = ended(capsys, line + " --resume --seed 1 --threat linf:0.05")
    assert code == 2
    assert "--resume: got another protocol (attacks, seed, threat.epsilon)" in err


def test_a_process_of_its_own_prints_the_folder_last_and_nothing_else_on_stdout(folder):
    shell = warm_shell()
    done = shell.run("inure evaluate run --suite pgd20 --examples 40 --out '[b] odd'", folder)
    assert (done.returncode, done.stdout) == (0, "[b] odd\n")
    assert "robust accuracy" in done.stderr
    assert "run under linf:0.04" in done.stderr
    failed = shell.run("inure evaluate run --suite pgd20 --examples 40 --fail-under 1 -q", folder)
    assert (failed.returncode, failed.stdout) == (3, "run/evaluations/pgd20\n")
    assert failed.stderr.startswith("inure: --fail-under: accuracy ")
    mistaken = shell.run("inure evaluate run --threat linf", folder)
    assert (mistaken.returncode, mistaken.stdout) == (2, "")
    assert len(mistaken.stderr.splitlines()) == 1


def test_brackets_in_names_are_no_markup(folder, capsys):
    (folder / "[x]").mkdir()
    (folder / "[x]" / "[red]net.py").write_text(NET_FILE)
    _, out, err = ended(capsys, "evaluate '[x]/[red]net.py:linear' --suite clean" + GIVEN)
    assert out == "results\n"
    assert "[x]/[red]net.py:linear under linf:0.1" in err


def test_python_mirrors_the_command(folder):
    path, summary = evaluate_target(Request("run", suite="pgd20", examples=30, out=folder / "python", quiet=True))
    assert path == folder / "python"
    assert summary_at(path) == summary
    found = inure.evaluate(inure.load("run"), load_images("digits", "test").head(30), suite="pgd20", threat="linf:0.04")
    assert found.summary["robust_accuracy"] == summary["robust_accuracy"]


def test_load_leaves_the_generator_and_gives_an_eval_net(folder):
    state = torch.get_rng_state()
    net = load("run")
    assert torch.equal(torch.get_rng_state(), state)
    assert not net.training
    assert next(net.parameters()).device.type == "cpu"
    fresh = build(Model(name="cnn_tiny"), num_classes=10, shape=(1, 8, 8))
    assert net.state_dict().keys() == fresh.state_dict().keys()
    last = load("run", weights=folder / "run/checkpoints/last.safetensors")
    assert last.num_classes == 10


def test_parse_mode():
    assert parse_mode(None) is None
    assert parse_mode("robust") == "robust"
    assert parse_mode("clean=0.3,robust=7/10") == {"clean": 0.3, "robust": 0.7}
    assert parse_mode("clean=-0.4, robust=1.4") == {"clean": -0.4, "robust": 1.4}
