"""Which domains a forward uses: one object that all adapters of a net share, set before the net runs, reset after.

A mix is None (the first domain), a name, affine weights by name, a (K,) tensor of such weights (which may want a
gradient), a (B, K) tensor of weights for each image, or a sequence of names: the batch then is so many equal parts,
one after the other, each in its domain.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...settings.errors import UserError, unknown_name

Mix = str | Mapping[str, float] | Sequence[str] | Tensor
"""A domain, affine weights over domains by name or (K,), a domain for each of several parts, or (B, K) weights."""
_SUM = 1e-6


class OneMixOnly(Exception):
    """Something in the net cannot tell the images of a batch apart."""


class Choice(NamedTuple):
    """A mix in numbers; exactly one of the four is not None."""

    domain: int | None = None
    """One domain."""
    weights: tuple[float, ...] | Tensor | None = None
    """(K,) the same for all images."""
    parts: tuple[int, ...] | None = None
    """A domain for each of several equal parts of the batch."""
    rows: Tensor | None = None
    """(B, K)."""


class Mixture:
    """The domains of a net and the choice in use.

    Args:
        domains: Their names, at least one.
    """

    def __init__(self, domains: Sequence[str]) -> None:
        self.domains = tuple(domains)
        self.choice = Choice(domain=0)
        self.batch = 0
        """Images of the forward that runs."""
        self.whole = False
        """Whether some adapter only knows one mix for a whole forward."""
        self.repeating: list[Any] = []
        """Modules that may repeat their forward in the backward (``grad_checkpointing``)."""
        self.settled = False
        """Whether ``whole`` was found out by trying; see ``settle``."""
        self.usual = "robust" if "robust" in self.domains else None
        """The domain that is meant where a user names none."""
        self.images_apart = False
        """Whether some adapter knows parts of a batch, but no mix per image."""

    def refuse_repeats(self) -> None:
        """A forward that is repeated in the backward would be repeated in another domain.

        Raises:
            UserError: If a module of the net has ``grad_checkpointing`` on.
        """
        if any(module.grad_checkpointing for module in self.repeating):
            allowed = "off: the repeated forward would run in another domain"
            raise UserError("model", "activation checkpointing in a net with domains", allowed, "a smaller batch")

    @property
    def folded(self) -> bool:
        """Whether all images of the forward share their parameters."""
        return self.uniform(self.choice)

    @staticmethod
    def uniform(choice: Choice) -> bool:
        """Whether ``choice`` is the same for all images."""
        return choice.parts is None and choice.rows is None

    def apart(self, choice: Choice) -> bool:
        """Whether the images of a forward under ``choice`` must be sent through in several."""
        return (self.whole and not self.uniform(choice)) or (self.images_apart and choice.rows is not None)

    @property
    def slow_rows(self) -> bool:
        """Whether a mix per image sends every image through by itself."""
        return self.whole or self.images_apart

    @contextmanager
    def using(self, choice: Choice, batch: int) -> Iterator[None]:
        """``choice`` inside, what was before outside, also after an exception."""
        before = self.choice, self.batch
        self.choice, self.batch = choice, batch
        try:
            yield
        finally:
            self.choice, self.batch = before

    def parse(self, mix: "Mix | None", batch: int) -> Choice:
        """A user's mix in numbers.

        Raises:
            UserError: For a name that is not a domain, weights that do not sum to 1, or another shape.
        """
        if mix is None:
            return Choice(domain=0)
        if isinstance(mix, str):
            return Choice(domain=self._index(mix))
        if isinstance(mix, Tensor):
            checked = self._checked_rows(mix, batch)
            return Choice(rows=checked) if mix.ndim == 2 else Choice(weights=checked)
        if isinstance(mix, Mapping):
            return Choice(weights=self._checked_weights(mix))
        if isinstance(mix, Sequence):
            parts = tuple(self._index(name) for name in mix)
            if not parts or batch % len(parts):
                raise UserError("mix", mix, f"names, as many as equal parts of the batch of {batch}")
            return Choice(parts=parts)
        raise UserError("mix", mix, f"a domain ({self._listed()}), weights by domain, or a (B, K) tensor")

    def fold(self, stack: Tensor) -> Tensor:
        """The parameter that ``stack`` (K, ...) is under a choice that is the same for all images."""
        domain, weights, _, _ = self.choice
        if domain is not None:
            return stack[domain]
        assert weights is not None
        return weighted(stack, weights.to(stack.dtype) if isinstance(weights, Tensor) else weights)

    def unfold(self, stack: Tensor, size: int | None = None) -> Tensor:
        """(size, ...): the parameter of each row, where rows are images, or equally many pieces of each image."""
        return weighted(stack, self._columns(stack, size, stack.ndim))

    def blend(self, outputs: Sequence[Tensor]) -> Tensor:
        """(B, ...): each image's own sum of what the K domains made of it."""
        first = outputs[0]
        return weighted(outputs, self._columns(first, len(first), first.ndim))

    def _columns(self, like: Tensor, size: int | None, ndim: int) -> list[Tensor]:
        rows = self.rows(like, size)
        return [rows[:, k].reshape(-1, *[1] * (ndim - 1)) for k in range(rows.shape[1])]

    def rows(self, like: Tensor, size: int | None = None) -> Tensor:
        """(size, K) weights; ``size`` is the batch, or a multiple of it where a net cuts images into windows."""
        rows = self.choice.rows
        if rows is None:
            rows = self._rows_of_parts(like)
        rows = rows.to(like.dtype)
        if size in (None, len(rows)):
            return rows
        if size % len(rows):
            raise OneMixOnly
        return rows.repeat_interleave(size // len(rows), 0)

    def _rows_of_parts(self, like: Tensor) -> Tensor:
        parts, domain_of_all = self.choice.parts, self.choice.domain
        rows = torch.zeros(self.batch, len(self.domains), device=like.device, dtype=like.dtype)
        if parts is None:
            rows[:, domain_of_all] = 1
            return rows
        size = self.batch // len(parts)
        for place, domain in enumerate(parts):  # slices, not a gather: nothing is copied to the device
            rows[place * size : (place + 1) * size, domain] = 1
        return rows

    def _index(self, name: str) -> int:
        if name not in self.domains:
            raise unknown_name("mix", str(name), self.domains)
        return self.domains.index(name)

    def _checked_weights(self, mix: Mapping[str, float]) -> tuple[float, ...]:
        for name in mix:
            self._index(name)
        weights = tuple(float(mix.get(name, 0.0)) for name in self.domains)
        if not math.isfinite(sum(weights)) or abs(sum(weights) - 1) > _SUM:
            raise UserError("mix", dict(mix), f"weights of {self._listed()} whose sum is 1")
        return weights

    def _checked_rows(self, rows: Tensor, batch: int) -> Tensor:
        count = len(self.domains)
        if rows.shape not in ((batch, count), (count,)) or not rows.is_floating_point():
            given = f"{rows.dtype} {tuple(rows.shape)}"
            raise UserError("mix", given, f"floats ({batch}, {count}): {self._listed()}")
        # Elsewhere a look at the values would wait for the device or break the graph
        if rows.device.type == "cpu" and not torch.compiler.is_compiling() and not _inside_vmap(rows):
            wrong = (rows.sum(-1) - 1).abs() > 1e-5
            if bool(wrong.any()):
                raise UserError("mix", "a row with another sum", f"weights of {self._listed()} whose sum is 1")
        return rows

    def _listed(self) -> str:
        return " | ".join(self.domains)


def weighted(stack: Tensor | Sequence[Tensor], weights: Sequence[float | Tensor] | Tensor) -> Tensor:
    """sum_k weights[k] * stack[k], in this order: folded and mixed parameters are the same sums."""
    total = weights[0] * stack[0]
    for k in range(1, len(stack)):
        total = total + weights[k] * stack[k]
    return total


def _inside_vmap(tensor: Tensor) -> bool:
    return bool(torch._C._functorch.is_batchedtensor(tensor))  # pyright: ignore[reportAttributeAccessIssue]
