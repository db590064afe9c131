"""Two real processes over gloo find what one finds, whoever starts them."""

import json
import os

import pyarrow.parquet as pq
import pytest
from digit_nets import by_example, without_seconds, write_net

from warm_commands import BIN, warm_shell

pytestmark = pytest.mark.distributed
OPTIONS = "--suite quick --examples 70 --device cpu"
TORCHRUN = f"python {BIN / 'torchrun'} --standalone --nproc-per-node 2 --no-python inure"


@pytest.fixture(scope="module")
def folder(cnn, tmp_path_factory):
    """The net, and the folder ``one`` of its evaluation in one process."""
    folder = tmp_path_factory.mktemp("distributed")
    words = " ".join(write_net(folder, cnn))
    (folder / "words").write_text(f"{words} {OPTIONS}")
    done = warm_shell().run(f"inure {words} {OPTIONS} --out one", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("start", ["inure", "torchrun"])
def test_two_processes_find_what_one_finds(folder, start):
    words = (folder / "words").read_text()
    lines = {
        "inure": f"inure {words} --devices 2 --out {start}",
        "torchrun": f"{TORCHRUN} {words} --out {start}",
    }
    done = warm_shell().run(lines[start], folder)
    assert done.returncode == 0, done.stderr
    # One process speaks, and its last word on stdout is the folder
    assert done.stdout.splitlines() == [start]
    assert done.stderr.count("robust accuracy") == 1
    ours, theirs = (folder / name for name in (start, "one"))
    assert sorted(os.listdir(ours)) == ["examples.safetensors", "outcomes.parquet", "summary.json"]
    assert by_example(pq.read_table(ours / "outcomes.parquet")) == by_example(
        pq.read_table(theirs / "outcomes.parquet")
    )
    summaries = [without_seconds(json.loads((place / "summary.json").read_text())) for place in (ours, theirs)]
    for summary in summaries:
        summary.pop("command")
    assert summaries[0] == summaries[1]


def test_a_mistake_of_two_processes_is_one_line_and_exit_code_2(folder):
    words = (folder / "words").read_text()
    done = warm_shell().run(f"inure {words} --devices 2 --out one --resume --seed 4", folder)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("inure: ")]
    assert len(lines) == 1
    assert "--resume: got another protocol (seed)" in lines[0]
    assert "Traceback" not in done.stderr
