"""The examples are run, with settings that take seconds."""

import re
from pathlib import Path

import pytest

from warm_commands import warm_shell

EXAMPLES = Path(__file__).parent.parent / "examples"
RUNS = {
    "train_in_30_lines.py": ("1 cnn_tiny 16", [r"^standard +clean \d", r"^pgd_at .* robust .* 16 test images$"]),
    "attack_your_model.py": ("16", [r"^clean: 9\d\.", r"^linf: .* distance <= 0\.100$", r"^evaluation: robust"]),
    "write_a_method.py": ("1 cnn_tiny", [r"^epoch 1: loss .*, natural .*, robust ", r"^clean .* robust .*"]),
}


@pytest.fixture(scope="module")
def shell():
    return warm_shell()


@pytest.mark.parametrize("name", RUNS)
def test_an_example_runs_and_prints_what_it_found(name, shell, tmp_path):
    arguments, expected = RUNS[name]
    done = shell.run(f"python {EXAMPLES / name} {arguments}", tmp_path)
    assert done.returncode == 0, done.stderr
    for pattern in expected:
        assert re.search(pattern, done.stdout, re.MULTILINE), f"{pattern} in\n{done.stdout}"


def test_the_function_of_an_example_is_a_target_of_the_command_line(shell, tmp_path):
    target = f"{EXAMPLES / 'attack_your_model.py'}:net"
    options = "--data digits --threat linf:0.1 --suite pgd20 --examples 16 --out results --quiet"
    done = shell.run(f"inure evaluate {target} {options}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "results\n"
    assert (tmp_path / "results/summary.json").is_file()


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*RUNS}


def test_thirty_lines_are_thirty_lines():
    lines = (EXAMPLES / "train_in_30_lines.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 30
