"""The net under test as attacks and verdicts see it: in float32, in batches of few sizes, counted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ..types import Images, Logits

PADDING = 32
"""Sizes of the batches that the net sees are multiples of this: two vectors of the widest CPUs, so that no tensor
(B, ...) ends in a partial one."""
_SMALLEST_BATCH = 8


class Metered(nn.Module):
    """A net that counts the examples that went forward, and back, through it.

    The net sees batches padded with copies of the last image, to a multiple of ``padding``: the kernels of a CPU treat
    a batch of one, and the last odd elements of a small batch, otherwise than the rest, and differ in the last bits.
    So no verdict depends on how many examples happen to be left. Copies are neither counted nor differentiated.

    It runs in float32 whatever autocast says, but for searches that ask for less (``searching_in``). A gradient that
    is not finite is taken as zero, and counted: one NaN would turn the image, and with it the whole evaluation, into
    nothing.

    Args:
        net: Images in [0, 1] to logits.
        mode: A mix to pass on as ``mix=``; a tensor (B, domains) has a row for each image. None passes nothing.
        padding: Least size of a batch, and its divisor.
    """

    def __init__(self, net: nn.Module, mode: object = None, padding: int = PADDING) -> None:
        super().__init__()
        self.net, self.mode, self.padding = net, mode, padding
        self.forwards = self.backwards = 0
        self.bad_gradients: Tensor | int = 0
        self._search_dtype: torch.dtype | None = None
        self.slack = float("inf")
        """Share of the largest logit by which differences of logits of a search in low precision may be off."""

    def forward(self, x: Images) -> Logits:
        """The logits (B, K), in float32; the mode is passed on only if one was asked for."""
        return self._run(x, self._search_dtype)

    @property
    def exact(self) -> Callable[[Images], Logits] | None:
        """A float32 forward for what a search decides by, while others run in less; None while all are in float32."""
        return None if self._search_dtype is None else partial(self._run, dtype=None)

    def _run(self, x: Images, dtype: torch.dtype | None) -> Logits:
        size, counted = len(x), _distinct(x)
        self.forwards += counted
        if x.requires_grad:
            x.register_hook(self._repair)
        with torch.autocast(x.device.type, dtype=dtype, enabled=dtype is not None):
            logits = self._ask(self._padded(x))[:size]
        if logits.requires_grad:
            logits.register_hook(partial(self._count, counted))
        return logits.float()

    def retreat(self, size: int) -> int | None:
        """A smaller batch than ``size`` examples, for which memory ran out; None if there is none.

        Half of what the net saw; past the padding's size the padding gives way too.
        """
        seen = padded_size(size, self.padding)
        if seen <= _SMALLEST_BATCH:
            return None
        self.padding = min(self.padding, seen // 2)
        return seen // 2

    def forget(self) -> None:
        """Count from zero."""
        self.forwards = self.backwards = 0
        self.bad_gradients = 0

    def calibrate(self, x: Images, dtype: torch.dtype) -> None:
        """Measure on (B, C, H, W) how far logits in ``dtype`` are off; set ``slack``.

        ``slack`` is four times the largest error of a difference of logits, over the largest logit; past an eighth low
        precision tells nothing, and it is infinite. Not counted.
        """
        forwards = self.forwards
        with torch.no_grad():
            whole, low = self._run(x, None), self._run(x, dtype)
        self.forwards = forwards
        error = (low - whole) - (low - whole).mean(1, keepdim=True)
        worst = float((error.abs().amax(1) / whole.abs().amax(1).clamp_min(1e-12)).max())
        self.slack = 8 * worst if 8 * worst <= 1 / 8 else float("inf")

    @contextmanager
    def searching_in(self, dtype: torch.dtype | None) -> Iterator[None]:
        """Forwards inside run under autocast to ``dtype``; None: in float32, as outside."""
        self._search_dtype = dtype
        try:
            yield
        finally:
            self._search_dtype = None

    def _ask(self, x: Images) -> Logits:
        if self.mode is None:
            return self.net(x)
        mix = self._padded(self.mode) if isinstance(self.mode, Tensor) and self.mode.ndim > 1 else self.mode
        return self.net(x, mix=mix)

    def _padded(self, t: Tensor) -> Tensor:
        missing = padded_size(len(t), self.padding) - len(t)
        return torch.cat([t, t[-1:].detach().expand(missing, *t.shape[1:])]) if missing else t

    def _count(self, size: int, grad: Tensor) -> None:
        self.backwards += size

    def _repair(self, grad: Tensor) -> Tensor:
        finite = grad.isfinite()
        self.bad_gradients = self.bad_gradients + (~finite.flatten(1).all(1)).sum()
        return torch.where(finite, grad, 0.0)


def _distinct(x: Images) -> int:
    """How many examples: an attack may send a single one twice (see ``attacks.standing``)."""
    return 1 if len(x) == 2 and torch.equal(x[0], x[1]) else len(x)


def padded_size(size: int, padding: int = PADDING) -> int:
    """The next multiple of ``padding``."""
    return -(-size // padding) * padding


def out_of_memory(error: RuntimeError) -> bool:
    """Whether that is what an error says. CUDA has a type of its own for it; the CPU and MPS say it in words."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError) or any(w in str(error).lower() for w in words)
