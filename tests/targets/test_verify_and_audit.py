"""``inure evaluate`` with --store-adversarial, --verify, --transfer-from, --audit, as commands."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from inure.commands import _run
from inure.recipe.recipe import load_recipe
from inure.runs.load import load
from inure.training.train import train

_FAST = ["model.name=cnn_tiny", "epochs=6", "evaluation.validation_examples=32"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two nets of the same recipe and other seeds."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        str(train(load_recipe("digits/standard", [*_FAST, f"seed={seed}"]), folder / f"run{seed}", quiet=True))
        for seed in (0, 1)
    ]


def evaluated(run: str, *options: str) -> int:
    """The exit code."""
    return _run(["evaluate", run, "--threat", "linf:0.1", "--examples", "60", *options])


def verified(run: str, path, capsys, *options: str) -> tuple[int, str]:
    """The exit code, and what is said on stderr."""
    capsys.readouterr()
    code = evaluated(run, "--verify", str(path), *options)
    written = capsys.readouterr()
    assert written.out == f"{path}\n"
    return code, " ".join(written.err.split())


def test_a_stored_set_passes_and_a_changed_one_does_not(runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert evaluated(runs[0], "--suite", "fgsm", "--store-adversarial", "--out", str(out)) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert "--store-adversarial" in summary["command"]
    path = out / "adversarial.safetensors"
    code, said = verified(runs[0], path, capsys, "--out", str(tmp_path / "found"))
    assert code == 0
    finding = json.loads((tmp_path / "found" / "verification.json").read_text())
    assert finding["robust_accuracy"] == summary["robust_accuracy"]
    assert finding["same_weights"]
    assert finding["differences"] == {"count": 0, "first": []}
    assert finding["said"] in said
    # The gate works on it as on an evaluation
    assert verified(runs[0], path, capsys, "--fail-under", "1")[0] == 3
    tensors = load_file(path)
    tensors["x_adv"][7] = (tensors["x_adv"][7] + 0.3).clamp(0, 1)
    other = tmp_path / "changed.safetensors"
    save_file({"x_adv": tensors["x_adv"]}, other)
    code, said = verified(runs[0], other, capsys)
    assert code == 3
    assert "violations 1" in said.replace("│ ", "")


def test_images_made_for_another_net_are_a_transfer(runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert evaluated(runs[0], "--suite", "fgsm", "--store-adversarial", "--out", str(out)) == 0
    own = json.loads((out / "summary.json").read_text())["robust_accuracy"]
    path = out / "adversarial.safetensors"
    code, _ = verified(runs[1], path, capsys, "--out", str(tmp_path / "found"))
    finding = json.loads((tmp_path / "found" / "verification.json").read_text())
    assert code == 0
    assert finding["same_weights"] is False
    assert finding["robust_accuracy"] > own
    x = load_file(path)["x_adv"]
    labels = load_file(path)["label"]
    with torch.no_grad():
        assert finding["robust_accuracy"] == float((load(runs[1])(x).argmax(1) == labels).double().mean())


def test_a_second_net_attacks_last(runs, tmp_path):
    out = tmp_path / "out"
    assert evaluated(runs[0], "--suite", "clean", "--transfer-from", runs[1], "--out", str(out)) == 0
    summary = json.loads((out / "summary.json").read_text())
    (attack,) = summary["attacks"]
    assert attack["name"] == "transfer-run1"
    assert (attack["backwards"], attack["forwards"] > 0) == (0, True)
    assert summary["robust_accuracy"] < summary["clean_accuracy"]
    assert f"--transfer-from {runs[1]}" in summary["command"]
    (described,) = summary["protocol"]["attacks"]
    assert (described["source"], described["kind"]) == (runs[1], "transferred")


def test_a_net_is_no_second_net_of_itself(runs, tmp_path, capsys):
    assert evaluated(runs[0], "--suite", "clean", "--transfer-from", runs[0], "--out", str(tmp_path / "out")) == 2
    assert "--transfer-from" in capsys.readouterr().err


def test_an_audit_stands_beside_the_evaluation_and_is_not_repeated(runs, tmp_path, capsys, monkeypatch):
    from inure.targets import audited

    out = tmp_path / "out"
    words = ("--suite", "fgsm", "--audit", "--examples", "24", "--out", str(out))
    assert evaluated(runs[0], *words) == 0
    shown = capsys.readouterr().err
    summary, audit = (json.loads((out / name).read_text()) for name in ("summary.json", "audit.json"))
    results = [check["passed"] for check in audit["checks"]]
    assert summary["audit"] == {
        "passed": results.count(True), "failed": results.count(False), "undecided": results.count(None),
    }  # fmt: skip
    assert {check["letter"] for check in audit["checks"]} >= set("abcdefghijk")
    assert {flag["name"] for flag in audit["flags"]} <= {flag["name"] for flag in summary["flags"]}
    assert summary["verified"] == (not any(flag["severity"] == "severe" for flag in summary["flags"]))
    assert (out / "audit.png").read_bytes().startswith(b"\x89PNG")
    assert "not decidable" in shown
    monkeypatch.setattr(audited, "audit", None)  # it would be called
    assert evaluated(runs[0], *words, "--resume") == 0
    assert json.loads((out / "summary.json").read_text()) == summary


def test_sets_are_not_audited(runs, tmp_path, capsys):
    assert evaluated(runs[0], "--suite", "corruptions", "--audit", "--out", str(tmp_path / "out")) == 2
    assert "--audit: got with --suite corruptions" in capsys.readouterr().err


def test_a_gate_does_not_pass_what_is_not_verified(tmp_path, capsys):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef soft():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1))\n"
    )
    words = [
        "evaluate",
        f"{tmp_path / 'net.py'}:soft",
        "--data",
        "digits",
        "--threat",
        "linf:0.001",
        "--examples",
        "20",
    ]
    words += ["--suite", "pgd20", "--out", str(tmp_path / "out"), "--fail-under", "0"]
    assert _run(words) == 3
    assert "is not verified: softmax_output" in capsys.readouterr().err


def test_a_check_of_a_stored_set_takes_no_attack(runs, tmp_path, capsys):
    assert evaluated(runs[0], "--verify", str(tmp_path / "a.pt"), "--suite", "quick") == 2
    assert "--suite: got with --verify" in capsys.readouterr().err


@pytest.mark.parametrize(("suite", "says"), [("fgsm", True), ("autoattack", False)])
def test_a_suite_below_autoattack_is_called_an_upper_bound(runs, tmp_path, capsys, monkeypatch, suite, says):
    from inure.evaluation import SUITES

    monkeypatch.setitem(SUITES, "autoattack", SUITES["fgsm"])
    assert evaluated(runs[0], "--suite", suite, "--out", str(tmp_path / "out")) == 0
    assert ("an upper bound of AutoAttack" in " ".join(capsys.readouterr().err.split())) == says
