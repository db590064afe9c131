"""Attention random dropping (Mo et al., 2022, arXiv:2210.07540): attacks whose gradients pass some blocks by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr

from ..libraries import Tensor, nn, torch
from ..schedules import Share, warm
from ..settings.config import Settings
from ..settings.errors import UserError
from ..types import Images

if TYPE_CHECKING:
    from .gates import Gate


class AttentionDropping(Settings):
    """In each block and step the whole attention branch gets no gradient, with a probability that falls from 1 to 0.

    The forward stays as it is; the backward of a block is (I + J_mlp) (I + gamma J_attention) with gamma 0 or 1, drawn
    anew for every block and every step. The keep-probability is r = min(progress / warmup, 1), so that attacks are
    weak and local at first. Only while training images are crafted; never in the update, never in an evaluation.

    Note:
        Where a class token is read, pixels come to it through attention alone: with all branches that lead there
        dropped the gradient is exactly zero and the step does nothing, as in the original (probability
        (1 - r)^blocks; in ConViT only two blocks count). Such steps are not computed: see ``blind``. As in the
        official code one draw holds for the whole batch of a process. Theirs is a hook in copies of the nets of their
        own; here attention is found by what modules hold, and a branch whose output has another shape than its input
        (a pool, the class attention of CaiT) is left alone.
    """

    warmup: Share = 0.25
    """Share of training over which dropping fades out; the paper's code: 10 of 40 epochs."""
    per_example: bool = False
    """A draw of its own for every image; by default one for the batch."""
    _keep: float = PrivateAttr(default=1.0)
    _model: Any = PrivateAttr(default=None)  # a net: pydantic would look the type up, and load torch
    _gates: list[Gate] = PrivateAttr(default_factory=list)
    _blind: bool = PrivateAttr(default=False)

    def prepare(self, model: nn.Module) -> None:
        """Build the gates in, before the net is compiled.

        Raises:
            UserError: If the net has no attention.
        """
        _gates_within(model)

    def begin(self, model: nn.Module, progress: float) -> None:
        """``progress`` decides the keep-probability."""
        self._keep = warm(progress, self.warmup)
        if self._keep < 1:
            self._model, self._gates = model, _gates_within(model)

    def step(self, k: int, x_adv: Images, x: Images) -> Images:
        """Draw which blocks the next gradient passes by; nothing is drawn after the warm-up."""
        if self._gates:
            # On the host: a draw decides what is computed
            kept = torch.rand(len(self._gates), len(x) if self.per_example else 1) < self._keep
            self._blind = self._is_blind(kept, x)
            self._set(kept, x.device)
        return x_adv

    @property
    def blind(self) -> bool:
        """Whether the gradient of the coming step is known to be zero, so that nobody need compute it."""
        return self._blind

    def end(self) -> None:
        """Open all gates."""
        for gate in self._gates:
            gate.kept = True
        self._model, self._gates, self._keep, self._blind = None, [], 1.0, False

    def _set(self, kept: Tensor, device: torch.device) -> None:
        from .gates import is_compiled

        assert self._model is not None
        if self.per_example:
            values = kept.to(device, non_blocking=True).unbind()
        elif is_compiled(self._model):  # one graph for all draws
            values = kept[:, 0].to(device, non_blocking=True).unbind()
        else:
            values = kept[:, 0].tolist()
        for gate, value in zip(self._gates, values, strict=True):
            gate.kept = value

    def _is_blind(self, kept: Tensor, x: Images) -> bool:
        from .gates import find_carriers

        assert self._model is not None
        if self._gates[0].carries is None:
            find_carriers(self._model, self._gates, x[:2])
        carrying = [row for gate, row in zip(self._gates, kept, strict=True) if gate.carries]
        return bool(carrying) and not bool(torch.stack(carrying).any())


def _gates_within(model: nn.Module) -> list[Gate]:
    from .gates import gates_of

    gates = gates_of(model)
    if not gates:
        allowed = "null for a net without attention modules"
        raise UserError("crafting.attention_dropping", "on", allowed, "a vision transformer as model.name")
    return gates
