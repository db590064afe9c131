"""train_step(): the map of the library.

``train_step`` joins the axes in a fixed, visible order: craft, descend (at perturbed weights if asked), clip, step,
average. A joint that is off is None and is skipped: disabled equals absent, bit for bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..averaging import Averager
from ..penalties import Forwards, attack_terms, watched, with_penalties
from ..recipe.recipe import Recipe
from ..steps import Joints, clip_and_update
from ..types import Batch, Crafting, Losses


def train_step(
    fabric: Any,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    method: Any,
    joints: Joints,
) -> dict[str, Tensor]:
    """Attack the batch, then descend on the attacked batch.

    Args:
        fabric: Gives autocast and the (synchronised) backward.
        model: The net as wrapped by Fabric.
        optimizer: Its gradients are cleared first.
        batch: Images in [0, 1], labels, rows, progress.
        method: How to craft and what to minimise.
        joints: Criteria, regime, tricks, penalties, perturbation, average, clipping.

    Returns:
        0-d tensors to log, on the device: reading them is the caller's decision.
    """
    local = local_module(model)  # this process's own net: the attack wants no gradient synchronisation
    balance, penalties, perturbation = joints.balance, joints.penalties, joints.perturbation

    observers: list[Any] = [piece for piece in (method, balance.counter, *penalties) if hasattr(piece, "observe")]
    criterion = balance.train_at(batch)
    forwards = Forwards()

    # 1. inner maximisation
    with fabric.autocast():
        terms = attack_terms(penalties, method, local, batch)  # before the tricks: they change predictions
    with fabric.autocast(), _open(joints.crafting, local, batch.progress):
        search = joints.regime.search(method, batch.progress, joints.crafting, terms, balance.radii(batch))
        x_adv = method.craft(local, batch, search, balance.attack_at(batch))

    # 2. outer minimisation: one forward through the wrapper
    def backward() -> Losses:
        forwards.clear()
        with watched(model, forwards, penalties) if penalties or observers else nullcontext():
            losses = method.losses(model, batch, x_adv, criterion)
        if penalties:
            with fabric.autocast():
                outer = forwards.outer(local, method, batch, x_adv, search, criterion)
                losses = with_penalties(losses, penalties, outer)
        fabric.backward(losses.total.mean())
        return losses

    # 3. at perturbed weights if asked
    optimizer.zero_grad(set_to_none=True)
    perturbed = perturbation is not None and batch.progress >= perturbation.warmup
    with perturbation.active(model, backward) if perturbation and perturbed else nullcontext():
        losses = backward()

    # 4. clip, update, average
    grad_norm = clip_and_update(model, optimizer, joints.clip_norm)
    if joints.averager is not None:
        joints.averager.update(local, batch.progress)
    for observer in observers:
        observer.observe(batch, forwards.adversarial(len(x_adv))[0].detach())
    parts = {name: value.detach().mean() for name, value in losses.parts.items()}
    return {"loss": losses.total.detach().mean(), **parts, "grad_norm": grad_norm}


def step_of(method: Any) -> Any:
    """What is done with a batch: the method's own ``step`` (see ``steps/``) if it has one, else ``train_step``."""
    return getattr(method, "step", train_step)


def joints_of(recipe: Recipe, method: Any, averager: Averager | None = None) -> Joints:
    """What ``recipe`` joins to a step of ``method``: a method that attacks nothing has no use for tricks."""
    return Joints(
        balance=recipe.balance,
        regime=recipe.regime,
        crafting=recipe.crafting if hasattr(method, "attack") else None,
        penalties=recipe.penalties,
        perturbation=recipe.perturbation,
        averager=averager,
        clip_norm=recipe.optimizer.clip_norm,
    )


def local_module(model: nn.Module) -> nn.Module:
    """The net inside Fabric's wrapper (and DDP's)."""
    module = model.module
    assert isinstance(module, nn.Module)
    return module


@contextmanager
def _open(crafting: Crafting | None, model: nn.Module, progress: float) -> Iterator[None]:
    if crafting is None:
        yield
        return
    try:
        crafting.begin(model, progress)
        yield
    finally:
        crafting.end()
