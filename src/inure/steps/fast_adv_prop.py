"""Fast AdvProp's step (Mei et al., 2022, arXiv:2204.09838): the attack's backward pass also trains."""

from __future__ import annotations

from typing import Any

from ..libraries import Tensor, nn, torch
from ..noise import GeneratorNoise
from ..types import Batch, Images, Labels
from .joints import Joints
from .update import clip_and_update


def fast_adv_prop_step(
    fabric: Any,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    method: Any,
    joints: Joints,
) -> dict[str, Tensor]:
    """Three forwards, each with its full backward, whose gradients add up; then one update.

    1. The clean part of the batch through the clean domain.
    2. The part to attack, where the attack starts, through the robust domain: its backward gives the images'
       gradient for the attack's one step and parameter gradients that are kept.
    3. What that step found, through the robust domain.

    A parameter's gradient is the weighted mean over the images that reached it: shared ones divide by the weights of
    all, those of a domain by the weights of its own. Several processes exchange gradients once, after the last pass.

    Args:
        fabric: Gives the (synchronised) backward.
        model: The net as wrapped by Fabric.
        optimizer: Its gradients are cleared first.
        batch: Images in [0, 1], labels, rows, progress.
        method: A ``FastAdvProp``.
        joints: The ``train`` criterion of its balance is minimised and climbed. Tricks, penalties and perturbations
            have no place here: the recipe refuses them.

    Returns:
        0-d tensors to log, on the device: ``loss`` is the weighted mean over all passes.
    """
    joints.refuse_inner("the passes are three, and the attack's trains too")
    criterion = joints.balance.train_at(batch)
    attack, (clean, attacked) = joints.regime.scale(method.attack, batch.progress), method.split(batch)
    counts = method.counts(len(clean.x), len(attacked.x))
    total, domains = sum(counts.values()), getattr(model, "domains", ())

    def descend(x: Images, y: Labels, domain: str, weight: float, *, last: bool) -> Tensor:
        with fabric.no_backward_sync(model, enabled=not last):
            values = criterion(model(x, mix=domain) if domains else model(x), y)
            share = values.mean() * (weight * len(x) / total)
            fabric.backward(share)
        terms.append(share.detach())
        return values.detach().mean()

    optimizer.zero_grad(set_to_none=True)
    terms: list[Tensor] = []
    found = {"clean": descend(clean.x, clean.y, method.clean, method.clean_weight, last=not len(attacked.x))}
    if len(attacked.x):
        x, y = attacked.x, attacked.y
        start = attack.threat.random_start(x, GeneratorNoise()) if attack.start == "uniform" else x
        start = start.detach().requires_grad_()
        found["attack"] = descend(start, y, method.robust, method.attack_weight, last=False)
        assert start.grad is not None
        step_size = attack.threat.epsilon if attack.step_size is None else attack.step_size
        x_adv = attack.threat.project(attack.threat.ascend(start.detach(), start.grad, step_size), x)
        found["adversarial"] = descend(x_adv, y, method.robust, method.adversarial_weight, last=True)
    _average_over_own_images(model, counts)
    grad_norm = clip_and_update(model, optimizer, joints.clip_norm)
    if joints.averager is not None:
        assert isinstance(model.module, nn.Module)
        joints.averager.update(model.module, batch.progress)
    return {"loss": torch.stack(terms).sum(), **found, "grad_norm": grad_norm}


def _average_over_own_images(model: nn.Module, counts: dict[str, float]) -> None:
    """From means over all images to means over those of the domain, for what exists per domain.

    Args:
        model: Its gradients are changed.
        counts: The sum of the weights of each domain's images.
    """
    from ..models.adapters.stacks import adapter_names

    domains, stacked, total = getattr(model, "domains", ()), adapter_names(model), sum(counts.values())
    own = [p.grad for name, p in model.named_parameters() if name in stacked and p.grad is not None]
    for domain, count in counts.items():
        for grad in own if count > 0 else ():
            grad[domains.index(domain)].mul_(total / count)
