"""Nets that know the digits a little, and attacks that can be watched."""

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inure.data import ImageSet, load
from inure.evaluation import SUITES, Evaluation, Member, Workers, evaluate
from inure.evaluation.cascade import Cascade
from inure.evaluation.conditions import Conditions
from inure.evaluation.examples import Examples
from inure.evaluation.journal import Journal
from inure.evaluation.metered import Metered
from inure.evaluation.pictures import Pictures
from inure.losses import cross_entropy
from inure.models import Classifier, Model, build
from inure.settings.config import Settings
from inure.threat import Linf, ThreatModel

COLUMNS = ["index", "label", "clean_prediction", "attack", "adversarial_prediction", "robust", "distance"]


def fitted(name: str, epochs: int, lr: float) -> Classifier:
    """One of our nets after a few epochs on the training digits: right often, robust sometimes."""
    data = load("digits", "train")
    x, y = data.batch(torch.arange(len(data))).float().div(255), data.labels
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build(Model(name=name), num_classes=10, shape=(1, 8, 8))
        optimizer = torch.optim.AdamW(net.parameters(), lr=lr)
        for _ in range(epochs):
            for rows in torch.randperm(len(y)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
    torch.set_num_threads(threads)
    net.zero_grad()
    return net.eval()


def tensors(images: ImageSet) -> tuple[Tensor, Tensor]:
    """(N, C, H, W) float32 in [0, 1] and (N,) labels."""
    return images.batch(torch.arange(len(images))).float().div(255), images.labels


def by_example(table: pa.Table) -> dict[tuple[str, int], dict[str, Any]]:
    """Rows by (attack, index), all columns bit for bit."""
    rows = {(row["attack"], row["index"]): row for row in table.to_pylist()}
    assert len(rows) == table.num_rows
    return rows


class _Watched(Settings):
    kind: Literal["watched"] = "watched"
    threat: ThreatModel = Linf()


class Spy:
    """A suite of attacks that are plain functions ``move(x, y) -> x_adv``, with all that they were given.

    ``calls`` holds (name, x, y, index) of every batch without its padding.
    """

    def __init__(self, monkeypatch: Any, **moves: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.calls: list[tuple[str, Tensor, Tensor, Tensor]] = []
        monkeypatch.setitem(SUITES, "spy", lambda threat: [self._member(*item) for item in moves.items()])

    def given(self, name: str) -> dict[int, tuple[Tensor, int]]:
        """Index -> (image, label) of all that one attack was given."""
        found = {}
        for _, x, y, index in (call for call in self.calls if call[0] == name):
            found |= {int(i): (x[row], int(y[row])) for row, i in enumerate(index)}
        return found

    def _member(self, name: str, move: Callable[[Tensor, Tensor], Tensor]) -> Member:
        calls = self.calls

        class Attack(_Watched):
            def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, loss: Any, noise: Any) -> Tensor:
                assert not model.training
                calls.append((name, x.clone(), y.clone(), noise.index.clone()))
                return move(x, y)

        return Member(name, Attack(), cross_entropy)


class ReadsPixels(nn.Module):
    """Predicts what the first pixel says: class round(9 * x[0, 0, 0]); linear interpolation keeps gradients alive."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) to (B, 10)."""
        return -100 * (9 * x[:, 0, 0, 0, None] - torch.arange(10)).square()


class Limited(nn.Module):
    """A net on a device whose memory holds so many images."""

    def __init__(self, net: nn.Module, limit: int, error: Exception) -> None:
        super().__init__()
        self.net, self.limit, self.error, self.largest = net, limit, error, 0

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.limit:
            raise self.error
        self.largest = max(self.largest, len(x))
        return self.net(x)


def fingerprint(
    net: nn.Module, x: Tensor, y: Tensor, members: list[Member], *, batch_size: int, index: Tensor | None = None
) -> dict[tuple[str, int], tuple[int, float, float]]:
    """(attack, index) -> prediction, distance and confidence, to the last bit: far finer than verdicts."""
    journal = Journal(None)
    examples = Examples.of(x, y, index)
    conditions = Conditions(threat=members[0].attack.threat, batch_size=batch_size, device=torch.device("cpu"))
    pictures = Pictures(None, torch.arange(0), resume=False)
    cascade = Cascade(Metered(net), examples, conditions, journal=journal, pictures=pictures, advance=lambda *_: None)
    cascade.run(members)
    found = {}
    for record in journal.records:
        for i, *row in zip(*(record[k] for k in ("index", "prediction", "distance", "confidence")), strict=True):
            assert (record["attack"], i) not in found
            found[record["attack"], i] = tuple(row)
    return found


def by_workers(net: nn.Module | list[nn.Module], world_size: int, *data: Any, **options: Any) -> list[Evaluation]:
    """What each of several workers returns; threads stand in for the processes.

    Raises:
        Exception: The first that one of them raised.
    """
    barrier = threading.Barrier(world_size)
    results: list[Any] = [None] * world_size

    def work(rank: int) -> None:
        own = copy.deepcopy(net[rank] if isinstance(net, list) else net)
        try:
            results[rank] = evaluate(own, *data, workers=Workers(rank, world_size, barrier.wait), **options)
        except Exception as error:
            results[rank] = error
            barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [r for r in results if isinstance(r, Exception) and not isinstance(r, threading.BrokenBarrierError)]
    if errors:
        raise errors[0]
    return results


def without_seconds(tree: Any) -> Any:
    """A summary without the times, which no two evaluations share."""
    if isinstance(tree, dict):
        return {key: without_seconds(value) for key, value in tree.items() if key != "seconds"}
    return [without_seconds(item) for item in tree] if isinstance(tree, list) else tree


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


NET_FILE = """
from inure.models import Model, build


def cnn():
    return build(Model(name="cnn_tiny"), num_classes=10, shape=(1, 8, 8))
"""


def write_net(folder: Path, net: nn.Module) -> tuple[str, ...]:
    """The words of a command that evaluates the tiny CNN; its file and its weights are put into ``folder``."""
    (folder / "net.py").write_text(NET_FILE)
    torch.save(net.state_dict(), folder / "weights.pt")
    options = {"weights": "weights.pt", "threat": "linf:0.06", "data": "digits"}
    return "evaluate", "net.py:cnn", *(word for name, value in options.items() for word in (f"--{name}", value))
