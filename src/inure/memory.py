"""What a run remembers between its steps: named tensors, the same in every process, part of every checkpoint.

A piece of a recipe (a method, a penalty, a criterion, a measure) with something to remember has ``remember(facts)``,
which returns its tensors as they are at the beginning, named ``kind.what``; it finds them in ``batch.memory`` and
changes them in place. It may also have ``observe(batch, logits)``, called after each step with the logits of the
adversarial images, and ``end_epoch(memory)``, whose numbers go into the record of the epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .libraries import Tensor, torch
from .machine.precision import finest
from .types import Memory

CLASS_COUNTS = "class_counts"
"""(K,) ``finest``: training examples of each class. In the memory of every run."""


@dataclass(frozen=True)
class Facts:
    """What is known of a run when its memory is made."""

    examples: int
    """Training images: ``batch.index`` counts them from 0."""
    class_counts: Tensor
    """(K,) ``finest``, on the device."""
    shape: tuple[int, int, int]
    """(C, H, W) of an image."""
    batch_size: int
    """Images of a step, over all processes."""

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_counts)

    @property
    def device(self) -> torch.device:
        """Where the memory lies."""
        return self.class_counts.device


def facts_of(labels: Tensor, num_classes: int, shape: tuple[int, int, int], batch_size: int, device: Any) -> Facts:
    """The facts of a run on images of one ``shape`` with these (N,) labels."""
    device = torch.device(device)
    counts = torch.bincount(labels.cpu(), minlength=num_classes).to(finest(device)).to(device)
    return Facts(len(labels), counts, shape, batch_size)


def begin(recipe: Any, facts: Facts) -> Memory:
    """The memory of a run that has made no step."""
    memory = {CLASS_COUNTS: facts.class_counts}
    for piece in pieces(recipe):
        if hasattr(piece, "remember"):
            memory |= piece.remember(facts)
    return memory


def pieces(recipe: Any) -> Iterator[Any]:
    """All parts of a recipe that may remember something."""
    yield from (
        recipe.method,
        recipe.balance.train,
        recipe.balance.attack,
        recipe.balance.counter,
        *recipe.penalties,
        *recipe.measures,
    )


def end_epoch(recipe: Any, memory: Memory) -> dict[str, Any]:
    """Tell all that remember something that an epoch is over; what they have to say of it, by name."""
    noted: dict[str, Any] = {}
    for piece in pieces(recipe):
        if hasattr(piece, "end_epoch"):
            noted |= piece.end_epoch(memory)
    return noted


def new_rows(examples: int, *shape: int, device: Any, dtype: torch.dtype | None = None) -> Tensor:
    """Zeros, float32 by default, (examples + 1, ...): a row for each training image, and one that nobody reads.

    See ``write_rows``.
    """
    return torch.zeros(examples + 1, *shape, device=device, dtype=dtype or torch.float32)


def write_rows(memory: Tensor, rows: Tensor, values: Tensor) -> None:
    """Replace the ``rows`` (B,) of a memory made by ``new_rows``, those of all processes, in every process.

    The last batch of an epoch may hold an image twice (in two processes). Only its first values are kept: the others
    go to the row that nobody reads, so that the processes do not come to differ.
    """
    rows, values = everywhere(rows), everywhere(values.detach())
    earlier = torch.ones(len(rows), len(rows), dtype=torch.bool, device=rows.device).tril(-1)
    repeated = ((rows[:, None] == rows) & earlier).any(1)
    memory[torch.where(repeated, len(memory) - 1, rows)] = values.to(memory.dtype)


def read_slots(memory: Tensor, count: int) -> Tensor:
    """(count, ...): what lies at this process's places of the minibatch, in a memory with a row for each place.

    The places of a process follow those of the one before. A short last minibatch has the first places.
    """
    first = torch.distributed.get_rank() * count if _many() else 0
    return memory[torch.arange(first, first + count, device=memory.device) % len(memory)]


def write_slots(memory: Tensor, values: Tensor) -> None:
    """Replace what ``read_slots`` read, that of all processes, in every process. Others keep what they have."""
    values = everywhere(values.detach())[: len(memory)]  # the last process may hold images of the first again
    memory[: len(values)] = values.to(memory.dtype)


def everywhere(values: Tensor) -> Tensor:
    """(B, ...) of this process and those of the others, in the order of the processes; each has equally many."""
    if not _many():
        return values
    parts = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def _many() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def restore(memory: Memory, saved: Memory) -> None:
    """Take over the tensors of a checkpoint, in place."""
    for name, value in saved.items():
        memory[name].copy_(value)
