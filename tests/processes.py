"""Commands of inure in processes of their own, which can be killed, and what they leave behind.

Importing torch and its friends takes seconds, so the processes are forked from a server that has imported them.
"""

import io
import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "pytest",
        "inure.training.train",
        "inure.targets.evaluate",
        "lightning_fabric",
        "sklearn.datasets",
        "timm",
        "matplotlib.figure",
    ]
)

TINY = (
    "model.name=cnn_tiny",
    "data.examples=359",
    "batch_size=32",
    "epochs=4",
    "checkpoint.every=1",
    "evaluation.validation_steps=2",
    "evaluation.validation_examples=32",
)
"""Makes a recipe on digits one of a second: 323 images to train on, 11 steps an epoch."""
TINY_ATTACK = (*TINY, "method.attack.steps=2")


class Finished(NamedTuple):
    """How a command ended."""

    code: int
    """The exit code; minus the signal's number if one killed it."""
    out: str
    err: str


class Command:
    """``inure ARGUMENTS`` in a process of its own.

    Args:
        arguments: As on the command line.
        folder: Where it runs; its output is kept there.
        prepare: Called in the new process first: a function of a module, for faults and spies.
        environment: Variables to set.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        folder: Path,
        prepare: Callable[[], object] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        stem = f"output-{time.monotonic_ns()}"
        self._files = folder / f"{stem}.out", folder / f"{stem}.err"
        words = [str(argument) for argument in arguments]
        self.process = _SERVER.Process(
            target=_command, args=(words, folder, self._files, prepare, dict(environment or {}))
        )
        self.process.start()

    def finish(self, timeout: float = 120) -> Finished:
        """Wait for the end."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(self._files[1].read_text())
        out, err = (file.read_text() if file.exists() else "" for file in self._files)
        return Finished(self.process.exitcode, out, err)

    def said(self) -> str:
        """Its standard error so far."""
        return self._files[1].read_text() if self._files[1].exists() else ""

    def send(self, number: int) -> None:
        """Send a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait_until(self, condition: Callable[[], bool], timeout: float = 60) -> None:
        """Until ``condition`` holds or the process has ended."""
        deadline = time.monotonic() + timeout
        while not condition() and self.process.is_alive():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.002)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.process.join()


def inure(
    *arguments: str | Path,
    folder: Path,
    prepare: Callable[[], object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Run a command to its end."""
    return Command(arguments, folder, prepare, environment).finish()


def _command(
    arguments: list[str],
    folder: Path,
    outputs: tuple[Path, Path],
    prepare: Callable[[], object] | None,
    environment: dict[str, str],
) -> None:
    for descriptor, path in zip((1, 2), outputs, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    # As in a process that a shell starts; this one inherited the server's way
    multiprocessing.set_start_method(None, force=True)
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = ["inure", *arguments]
    import torch

    from inure.commands import main

    torch.set_num_threads(1)
    if prepare is not None:
        prepare()
    main()


def environments(processes: int = 2) -> list[dict[str, str]]:
    """The variables by which torchrun tells each of the processes of one training run who it is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GROUP_RANK": "0",
        "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "GROUP_WORLD_SIZE": "1",
    }  # fmt: skip
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def in_two_processes(work: Callable[[Any, int], object], folder: Path) -> list[Any]:
    """What ``work(fabric, rank)`` returns in each of two processes that train together.

    ``work`` is a function of a module, and returns tensors in dictionaries.
    """
    files = [folder / f"rank{rank}.pt" for rank in (0, 1)]
    processes = [
        _SERVER.Process(target=_work, args=(work, rank, environment, file))
        for rank, (environment, file) in enumerate(zip(environments(), files, strict=True))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    import torch

    return [torch.load(file, weights_only=True) for file in files]


def _work(work: Callable[[Any, int], object], rank: int, environment: dict[str, str], file: Path) -> None:
    os.environ.update(environment)
    import torch

    from inure.machine import engine

    torch.set_num_threads(1)
    torch.save(work(engine.start(engine.Engine(accelerator="cpu", devices=2)), rank), file)


def weights(run: Path) -> dict[str, Any]:
    """The tensors of weights.safetensors."""
    return load_file(run / "weights.safetensors")


def records(run: Path, event: str = "epoch") -> list[dict[str, Any]]:
    """The records of one kind in metrics.jsonl."""
    path = run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [record for record in lines if record["event"] == event]


def info(run: Path) -> dict[str, Any]:
    """run.json."""
    return json.loads((run / "run.json").read_text())


def saved_steps(run: Path) -> list[int]:
    """The steps of the checkpoints, newest first."""
    path = run / "checkpoints" / "index.json"
    return [entry["step"] for entry in json.loads(path.read_text())] if path.exists() else []


def begun(run: Path) -> int:
    """Changes when a command has begun to train or goes on to."""
    path = run / "run.json"
    return path.stat().st_mtime_ns if path.exists() else 0


def newest_checkpoint(run: Path) -> Path:
    """The file of the newest checkpoint."""
    return run / "checkpoints" / json.loads((run / "checkpoints" / "index.json").read_text())[0]["file"]


def assert_same_run(run: Path, other: Path) -> None:
    """The same weights and the same records of epochs, bit for bit, rates and times apart."""
    ours, theirs = weights(run), weights(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert tensor.numpy().tobytes() == theirs[name].numpy().tobytes(), f"{name} differs"
    assert [_timeless(record) for record in records(run)] == [_timeless(record) for record in records(other)]
    for name in ("best", "last"):
        assert info(run)[name] == info(other)[name]
        kept = [(path / "checkpoints" / f"{name}.safetensors").read_bytes() for path in (run, other)]
        assert kept[0] == kept[1], f"{name}.safetensors differs"


def assert_resumes_exactly(recipe: Any, folder: Path) -> Path:
    """A run that stops after its first step and goes on ends as one that never stopped; returns that one."""
    from inure.settings.errors import Stop
    from inure.training.train import train

    whole = train(recipe, folder / "whole", quiet=True)
    try:
        train(recipe, folder / "parts", quiet=True, max_minutes=1e-6)
    except Stop:
        assert saved_steps(folder / "parts") == [1]
    else:
        raise AssertionError("the run did not stop")
    train(recipe, folder / "parts", quiet=True, resume=True)
    assert_same_run(folder / "parts", whole)
    return whole


def _timeless(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in ("seconds", "images_per_second")}


def write_images(path: Path, labels: Sequence[int], *, seed: int = 0, bad: Sequence[int] = ()) -> Path:
    """A parquet file of grey 8 x 8 images whose upper left corner tells the label; rows in ``bad`` hold no image."""
    import numpy as np
    import pyarrow
    import pyarrow.parquet
    from PIL import Image

    random, cells = np.random.default_rng(seed), []
    for row, label in enumerate(labels):
        array = random.integers(0, 100, (8, 8), dtype=np.uint8)
        array[:4, :4] += np.uint8(40 * label)
        stream = io.BytesIO()
        Image.fromarray(array).save(stream, "PNG")
        cells.append({"bytes": b"no image" if row in bad else stream.getvalue(), "path": f"{row}.png"})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({"image": cells, "label": [*labels]}), path)
    return path
