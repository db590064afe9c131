"""The cascade: each attack of a suite on the examples still standing, always from the original image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from ..libraries import Tensor, torch
from ..models.modes import attack_mode, frozen
from .batches import Batches
from .conditions import Conditions, Workers
from .examples import Examples
from .journal import Journal
from .metered import Metered
from .pictures import Pictures
from .stored import StoredImages
from .suites import Member
from .verdicts import Verdicts, judge


class Cascade:
    """One evaluation in one process.

    Args:
        model: Any net that takes images in [0, 1]; its modes are restored afterwards.
        examples: What is evaluated.
        conditions: How; with the device settled.
        stored: What keeps the worst images of all, if anything.
        votes: Forwards whose mean decides each verdict.
        advance: Called after each batch with (attack, examples done, examples of it, standing).
    """

    def __init__(
        self,
        model: Metered,
        examples: Examples,
        conditions: Conditions,
        *,
        journal: Journal,
        pictures: Pictures,
        stored: StoredImages | None = None,
        votes: int = 1,
        advance: Callable[[str, int, int, int], None],
    ) -> None:
        assert conditions.device is not None
        self.model, self.examples, self.conditions, self.votes = model, examples, conditions, votes
        self.device, self.rows = conditions.device, rows_of(examples, conditions.workers)
        self.batches = Batches(model, conditions.batch_size, self.device)
        self.journal, self.pictures, self.stored, self.advance = journal, pictures, stored, advance

    def run(self, members: list[Member]) -> None:
        """The clean verdict, then every member in order; what the journal knows is not repeated."""
        found = self._found()
        with attack_mode(self.model, "eval"), frozen(self.model), repeatable(self.device):
            standing = self.rows
            for member in [None, *members]:
                name = member.name if member else "clean"
                right = found.get(name, {})
                todo = standing[[int(i) not in right for i in self.examples.index[standing]]]
                right |= self._attack(member, name, todo, done=len(standing) - len(todo))
                standing = standing[[right[int(i)] for i in self.examples.index[standing]]]

    def _attack(self, member: Member | None, name: str, rows: Tensor, done: int) -> dict[int, bool]:
        right: dict[int, bool] = {}
        total = done + len(rows)
        for chosen, verdicts in self.batches.each(rows, partial(self._judge, member)):
            labels, index = self.examples.labels[chosen], self.examples.index[chosen]
            # Images first: a batch that is in the journal is not repeated after a kill
            self.pictures.keep(index, labels, verdicts, clean=member is None)
            if self.stored is not None:
                self.stored.keep(chosen, verdicts, clean=member is None)
            self.journal.add(_record(name, labels, index, verdicts))
            right |= dict(zip(index.tolist(), (verdicts.prediction == labels).tolist(), strict=True))
            done += len(chosen)
            self.advance(name, done, total, sum(right.values()))
        return right

    def _judge(self, member: Member | None, chosen: Tensor) -> Verdicts:
        return judge(
            self.model,
            *self.examples.batch(chosen, self.device),
            member,
            threat=self.conditions.threat,
            seed=self.conditions.seed,
            search_dtype=self.conditions.search_dtype,
            votes=self.votes,
        )

    def _found(self) -> dict[str, dict[int, bool]]:
        found: dict[str, dict[int, bool]] = {}
        for record in self.journal.records:
            pairs = zip(record["index"], record["prediction"], record["label"], strict=True)
            found.setdefault(record["attack"], {}).update({i: p == y for i, p, y in pairs})
        return found


def rows_of(examples: Examples, workers: Workers) -> Tensor:
    """The positions in ``examples`` that are this process's."""
    return torch.arange(workers.rank, len(examples), workers.world_size)


def _record(name: str, labels: Tensor, index: Tensor, verdicts: Verdicts) -> dict[str, Any]:
    return {
        "attack": name,
        "index": index.tolist(),
        "label": labels.tolist(),
        "prediction": verdicts.prediction.tolist(),
        "distance": verdicts.distance.tolist(),
        "confidence": verdicts.confidence.tolist(),
        "seconds": verdicts.seconds,
        "forwards": verdicts.forwards,
        "backwards": verdicts.backwards,
        "bad_gradients": verdicts.bad_gradients,
    }


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Arithmetic that gives the same bits again.

    On a GPU: whole float32 mantissas and fixed kernels; by default convolutions shorten them to TF32 there.
    On a CPU: a power of two of threads, no more than there are. Kernels cut tensors into as many parts as there
    are threads; parts of a third or a fifth end within a vector, whose rest is computed by other code with other
    last bits: verdicts would depend on the batch size.

    Note:
        Measured on a CPU: equal to the last bit with one to three threads; from four on, activations such as SiLU
        can differ there in tensors of some sizes. With any number, so can a last layer of up to 11 classes whose
        input width is no multiple of 4, when the order of the examples changes (MKL_CBWR=AUTO in the environment
        cures that).
    """
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        if device.type == "cpu":
            torch.set_num_threads(1 << (threads.bit_length() - 1))
            yield
        else:
            torch.set_float32_matmul_precision("highest")
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
