"""Rows in batches, in smaller ones from where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from ..libraries import Tensor, torch
from .metered import Metered, out_of_memory

Found = TypeVar("Found")


class Batches:
    """How many examples go through a net at once; what did not fit once is not tried again.

    Args:
        model: Its padding gives way too, where the batch is no larger.
        size: Examples at once.
        device: Whose memory it is.
    """

    def __init__(self, model: Metered, size: int, device: torch.device) -> None:
        self.model, self.size, self.device = model, size, device

    def each(self, rows: Tensor, what: Callable[[Tensor], Found]) -> Iterator[tuple[Tensor, Found]]:
        """``what`` of every batch of rows, in order, with the batch.

        Raises:
            RuntimeError: If memory runs out for the smallest batch, and what else goes wrong.
        """
        start = 0
        while start < len(rows):
            chosen = rows[start : start + self.size]
            found = self._tried(what, chosen)
            if found is not None:
                yield chosen, found
                start += len(chosen)

    def _tried(self, what: Callable[[Tensor], Found], rows: Tensor) -> Found | None:
        try:
            return what(rows)
        except RuntimeError as error:
            smaller = self.model.retreat(len(rows)) if out_of_memory(error) else None
            if smaller is None:
                raise
        # Here the error is gone, and with its traceback the tensors that it held
        self.size = min(self.size, smaller)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None
