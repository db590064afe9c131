"""Gates: whether the gradient of a forward goes into an attention branch. The forward itself stays as it is."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..machine.eager import eagerly
from ..models.adapters.settling import wake
from ..models.modes import attack_mode, frozen
from ..types import Images
from .attention import attention_modules


class Gate:
    """At the output of an attention module; the skip past it and all else in the block keep their gradient."""

    kept: bool | Tensor = True
    """For all images; as a tensor () or (B,) bool on the device, which a compiled net needs, or draws per image."""
    carries: bool | None = None
    """Whether pixels need this gate or another such one to reach the logits at all; None: not known yet."""

    def hook(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """For ``register_forward_hook``."""
        if self.kept is True:
            return output
        first = output[0] if isinstance(output, tuple) else output
        if not inputs or first.shape != inputs[0].shape:
            return output  # a pool over tokens: no branch with a skip past it
        # torch's own attention may have tokens first
        gated = self._gated(first, axis=0 if getattr(module, "batch_first", True) else 1)
        return (gated, *output[1:]) if isinstance(output, tuple) else gated

    def _gated(self, output: Tensor, axis: int) -> Tensor:
        kept = self.kept
        if not isinstance(kept, Tensor):
            return output if kept else output.detach()
        if kept.ndim:
            # The windows of one image follow each other
            kept = kept.repeat_interleave(output.shape[axis] // len(kept))
            kept = kept.view(*[1] * axis, -1, *[1] * (output.ndim - axis - 1))
        return torch.where(kept, output, output.detach())


def gates_of(model: nn.Module) -> list[Gate]:
    """The gates of a net, one an attention module; where there are none yet, they are built in and stay, open."""
    modules = attention_modules(model)
    new = [module for module in modules if not isinstance(getattr(module, "gradient_gate", None), Gate)]
    for module in new:
        gate = Gate()
        # An attribute too: a copy of the net finds its own gate
        module.gradient_gate = gate  # pyright: ignore[reportArgumentType]
        module.register_forward_hook(gate.hook)
    if new and is_compiled(model):
        torch.compiler.reset()  # its graphs know nothing of hooks that came later
    return [module.gradient_gate for module in modules]  # pyright: ignore[reportReturnType]


def is_compiled(model: nn.Module) -> bool:
    """Whether a call of the net runs a compiled graph."""
    return getattr(model, "_compiled_call_impl", None) is not None


def find_carriers(model: nn.Module, gates: Sequence[Gate], x: Images) -> None:
    """Set ``carries`` of all gates: of the carriers one must be open, or the gradient is exactly zero.

    Where a class token is read, pixels come to it through attention alone, of the blocks that hold it: all in a ViT,
    the last two in ConViT. Where tokens are averaged there are no carriers. Found by trying: the gradient with all
    gates closed, with each one open, with all but the carriers open, on a copy in which parameters that are next to
    zero are woken: a branch may start at zero and carry later. It waits for the device, and is done once a net.

    Args:
        model: In any mode; tried in eval mode, and not compiled.
        gates: All of the net's.
        x: (B, C, H, W) images; two are enough.
    """
    probe = copy.deepcopy(model)
    wake(probe)
    copies = gates_of(probe)

    def reaches(opened: Sequence[Gate]) -> bool:
        for gate in copies:
            gate.kept = gate in opened
        with torch.enable_grad():
            probed = x.detach().requires_grad_()
            logits = probe(probed)
            if not logits.requires_grad:
                return False
            # Not the plain sum, whose gradient is zero where logits are centred
            weights = torch.arange(1.0, logits.shape[1] + 1, device=x.device).cos()
            (grad,) = torch.autograd.grad((logits * weights).sum(), probed, materialize_grads=True)
        return bool(grad.any())

    with frozen(probe), attack_mode(probe, "eval"), eagerly():
        carriers = [gate for gate in copies if reaches([gate])] if not reaches([]) else []
        if reaches([gate for gate in copies if gate not in carriers]):
            carriers = []
    for gate, other in zip(gates, copies, strict=True):
        gate.carries = other in carriers
