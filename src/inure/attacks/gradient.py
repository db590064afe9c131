"""The gradient of an attack's loss with respect to the images, and nothing else."""

from __future__ import annotations

from ..libraries import Tensor, nn, torch
from ..types import Crafting, Criterion, Images, Labels, Logits, PerExample


def input_gradient(
    model: nn.Module, x_adv: Images, y: Labels, loss: Criterion, samples: int = 1, *, backward: bool = True
) -> tuple[Tensor, PerExample, Logits]:
    """One forward and one backward to the images; parameter gradients are not computed.

    Args:
        model: Images to logits.
        x_adv: (B, C, H, W).
        y: (B,) or (B, K).
        loss: (logits, y) to (B,).
        samples: Forwards to average over, for nets that draw at random: the gradient of the expected loss
            (expectation over transformations, Athalye et al., 2018, arXiv:1802.00420).
        backward: Without it the gradient is zero, and one forward is all it costs.

    Returns:
        The gradient (B, C, H, W), the loss (B,) and the logits (B, K) at ``x_adv``, all detached.
    """
    found = [_one(model, x_adv, y, loss, backward) for _ in range(samples)]
    if samples == 1:
        return found[0]
    grad, values, logits = (torch.stack(parts).mean(0) for parts in zip(*found, strict=True))
    return grad, values, logits


def is_blind(crafting: Crafting | None) -> bool:
    """Whether a trick says that the coming gradient is zero, so that nobody need compute it."""
    return bool(getattr(crafting, "blind", False))


def crafted_gradient(
    model: nn.Module, x_adv: Images, x: Images, y: Labels, loss: Criterion, crafting: Crafting | None, k: int = 0
) -> tuple[Images, Tensor]:
    """The iterate that a trick makes of ``x_adv`` before gradient ``k``, and the gradient there.

    Zero, without any pass, where the trick says that it is.
    """
    if crafting is not None:
        x_adv = crafting.step(k, x_adv, x)
    if is_blind(crafting):
        return x_adv, torch.zeros_like(x_adv)
    return x_adv, input_gradient(model, x_adv, y, loss)[0]


def cosines(a: Tensor, b: Tensor) -> tuple[PerExample, Tensor]:
    """(B,) cosines of the rows of two (B, D), and where neither is zero; finite everywhere, with its gradient.

    Rows are scaled by their largest entry first: gradients of confident examples are so small that their squares, or
    the epsilon of ``F.cosine_similarity``, would make them look orthogonal. 0 where a row is zero.
    """
    sizes = [v.detach().abs().amax(1, keepdim=True) for v in (a, b)]
    there = (sizes[0] > 0) & (sizes[1] > 0)
    a, b = (v / torch.where(there, size, 1.0) for v, size in zip((a, b), sizes, strict=True))
    norms = a.norm(dim=1) * b.norm(dim=1)
    there = there.squeeze(1)
    return (a * b).sum(1) / torch.where(there, norms, 1.0), there


def _one(
    model: nn.Module, x_adv: Images, y: Labels, loss: Criterion, backward: bool
) -> tuple[Tensor, PerExample, Logits]:
    if not backward:
        with torch.no_grad():
            logits = model(x_adv)
            return torch.zeros_like(x_adv), loss(logits, y), logits
    x_adv = x_adv.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x_adv)
        values = loss(logits, y)
        (grad,) = torch.autograd.grad(values.sum(), x_adv)
    return grad, values.detach(), logits.detach()
