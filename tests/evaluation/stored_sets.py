"""A small evaluation that stores its images: the order of writes of the cascade, and nothing else of it."""

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from inure.attacks import FGSM, PGD
from inure.evaluation.examples import Examples
from inure.evaluation.journal import Journal
from inure.evaluation.metered import Metered
from inure.evaluation.protocol import weights_hash
from inure.evaluation.results import write_results
from inure.evaluation.stored import StoredImages
from inure.evaluation.suites import Member
from inure.evaluation.summary import outcomes, summarize
from inure.evaluation.verdicts import Verdicts, judge
from inure.losses import cross_entropy, margin
from inure.models.modes import frozen
from inure.threat import Linf
from tiny import tiny_batch, tiny_net

COUNT, THREAT = 60, Linf(epsilon=0.03)
MEMBERS = [
    None,
    Member("fgsm", FGSM(threat=THREAT), cross_entropy),
    Member("pgd", PGD(threat=THREAT, steps=4, keep="worst"), margin),
]


def net() -> nn.Module:
    """Right on about half of the examples, of which some fall to the first attack and some stand."""
    return tiny_net().eval()


def examples(count: int = COUNT) -> Examples:
    """Half of the labels are those of the net; the names do not start at 0 and are not in order."""
    x = tiny_batch(count).x
    with torch.no_grad():
        right = net()(x).argmax(1)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    return Examples.of(x, torch.where(torch.arange(count) % 4 > 0, right, (right + 1) % 4), order + 1000)


def about() -> dict[str, str]:
    return {"threat": "linf:0.03", "weights_hash": weights_hash(net()), "text": 'Grüße, "1"'}


def verdicts_of(model: Metered, data: Examples, rows: Tensor, member) -> Verdicts:
    place = torch.device("cpu")
    return judge(model, data.images(rows, place), data.labels[rows], data.index[rows], member, threat=THREAT, seed=0)


def attack_all(
    folder: Path,
    data: Examples | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
    resume: bool = False,
    batch_size: int = 8,
    before_journal: Callable[[], object] = lambda: None,
) -> tuple[StoredImages, Journal]:
    """Every attack on who stands, batch by batch: first the images, then the journal."""
    data, model, journal = data or examples(), Metered(net()), Journal(folder, rank, world_size)
    journal.begin({"threat": "linf:0.03"}, resume=resume)
    stored = StoredImages(folder, data, about(), rank=rank, begun=bool(journal.records))
    right = {(r["attack"], i): p == y for r in journal.records for i, p, y in zip(*columns(r), strict=True)}
    standing = torch.arange(rank, len(data), world_size)
    with frozen(model):
        for member in MEMBERS:
            name = member.name if member else "clean"
            todo = standing[[(name, int(i)) not in right for i in data.index[standing]]]
            for rows in todo.split(batch_size) if len(todo) else ():
                verdicts = verdicts_of(model, data, rows, member)
                stored.keep(rows, verdicts, clean=member is None)
                before_journal()
                found = {"attack": name, "index": data.index[rows].tolist(), "label": data.labels[rows].tolist()}
                numbers = {"forwards": 1, "backwards": 1, "bad_gradients": 0, "seconds": 1.0}
                values = {"distance": verdicts.distance.tolist(), "confidence": verdicts.confidence.tolist()}
                journal.add({**found, **values, **numbers, "prediction": verdicts.prediction.tolist()})
                kept = zip(found["index"], (verdicts.prediction == data.labels[rows]).tolist(), strict=True)
                right |= {(name, i): ok for i, ok in kept}
            standing = standing[[right[name, int(i)] for i in data.index[standing]]]
    return stored, journal


def columns(record: dict) -> list:
    return [record["index"], record["prediction"], record["label"]]


def finished(folder: Path, data: Examples | None = None) -> Path:
    """The file of a finished evaluation, with its outcomes and summary beside it."""
    stored, journal = attack_all(folder, data)
    path, order = stored.finish(), ["clean", *(member.name for member in MEMBERS[1:])]
    table = outcomes(journal.records, order)
    fixed = {"threat": "linf:0.03", "protocol": {"weights_hash": about()["weights_hash"]}}
    write_results(folder, table, summarize(journal.records, table, order, fixed))
    journal.clear()
    return path


def change(path: Path, **changed: Tensor) -> None:
    """The same file with other tensors."""
    with safe_open(path, "pt") as file:
        texts = file.metadata()
    save_file({**load_file(path), **changed}, path, texts)


@functools.cache
def expected() -> tuple[Tensor, Tensor]:
    """(N, C, H, W) the worst-case images and (N,) who stands: each attack on all, and the first that breaks counts."""
    data, model = examples(), Metered(net())
    everyone = torch.arange(len(data))
    images, standing = data.images(everyone, torch.device("cpu")), torch.ones(len(data), dtype=torch.bool)
    for member in MEMBERS:
        found = verdicts_of(model, data, everyone, member)
        falls = standing & (found.prediction != data.labels)
        images = torch.where(falls.view(-1, 1, 1, 1), found.x_adv, images)
        standing &= ~falls
    return images, standing
