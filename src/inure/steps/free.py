"""The step of free adversarial training (Shafahi et al., 2019, arXiv:1904.12843): one backward for both gradients."""

from __future__ import annotations

from typing import Any

from ..libraries import Tensor, nn, torch
from ..memory import read_slots, write_slots
from ..threat import per_image
from ..types import Batch
from .joints import Joints
from .update import clip_and_update

DELTA = "free.delta"
"""(B, C, H, W), B over all processes: the perturbation of each place in a minibatch, in pixel units."""


def free_step(
    fabric: Any,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    method: Any,
    joints: Joints,
) -> dict[str, Tensor]:
    """M replays of the batch, each one forward and one full backward, and nothing else.

    A replay: the loss at clamp(x + delta, 0, 1); its backward gives the gradient of the weights and that of delta,
    which is zero where x + delta lies beyond 0 or 1 (not where it lies at them, whatever torch's clamp says: its
    gradient there is another in every version); the weights make their step (clipped, averaged); delta becomes
    clamp(delta + step_size * sign(its gradient), -epsilon, epsilon). So the weights descend at the delta of the
    replay before. All replays have the batch's learning rate.

    Args:
        fabric: Gives the (synchronised) backward.
        model: The net as wrapped by Fabric.
        optimizer: Its gradients are cleared before each replay.
        batch: Images in [0, 1], labels, rows, progress, and the memory with delta.
        method: A ``Free``.
        joints: The ``train`` criterion of its balance is minimised and climbed; its averager is told of every replay.
            Tricks, penalties and perturbations have no place here: the recipe refuses them.

    Returns:
        0-d tensors to log, on the device: means over the replays.
    """
    joints.refuse_inner("the attack's pass trains too")
    balance, averager = joints.balance, joints.averager
    criterion, counter = balance.train_at(batch), balance.counter
    attack = joints.regime.scale(method.attack, batch.progress, balance.radii(batch))
    radius = torch.zeros_like(batch.x[:, :1, :1, :1]) + per_image(attack.threat.epsilon, batch.x)
    step = radius if attack.step_size is None else per_image(attack.step_size, batch.x)
    delta = torch.clamp(read_slots(batch.memory[DELTA], len(batch.x)).to(batch.x), -radius, radius)
    losses, norms = [], []
    for _ in range(method.replays):
        moved = batch.x + delta
        x_adv = moved.clamp(0, 1).requires_grad_()
        optimizer.zero_grad(set_to_none=True)
        logits = model(x_adv)
        loss = criterion(logits, batch.y).mean()
        fabric.backward(loss)
        norms.append(clip_and_update(model, optimizer, joints.clip_norm))
        if averager is not None:
            assert isinstance(model.module, nn.Module)
            averager.update(model.module, batch.progress)
        assert x_adv.grad is not None
        inside = (moved >= 0) & (moved <= 1)
        delta = torch.clamp(delta + step * x_adv.grad.sign() * inside, -radius, radius)
        losses.append(loss.detach())
        if counter is not None:
            counter.observe(batch, logits.detach())
    write_slots(batch.memory[DELTA], delta)
    return {"loss": torch.stack(losses).mean(), "grad_norm": torch.stack(norms).mean()}
