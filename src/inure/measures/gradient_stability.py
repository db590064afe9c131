"""How far the gradient of training can be trusted along itself: gradient norm and predictiveness.

Gradient predictiveness as Santurkar et al. (2018, arXiv:1805.11604) look at it, applied to adversarial training as in
Dong et al. (2022, arXiv:2106.01606): take the gradient g at the weights, move along -g, and compare with the gradient
there. Larger changes mean that a step is taken on a gradient that no longer holds at its end.

Note:
    The released code of Dong et al. has only the mean of the squared gradient norm. Their plots of distance and cosine
    were not readable to us; that the move is a length here, and not a multiple of g, is our choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from ..libraries import Tensor, nn, torch
from ..models.modes import AttackMode, attack_mode
from ..noise import CounterNoise
from ..settings.config import Real, Whole
from ..types import Batch, Criterion, Search
from .measure import Measured, Probe

Objective = Callable[["nn.Module"], Tensor]
"""A net to the scalar that training minimises on one batch, crafting included."""


class Predictiveness(NamedTuple):
    """0-d tensors, on the device."""

    norm: Tensor
    """L2 norm of the gradient at the weights. The code of Dong et al. logs its square."""
    distance: Tensor
    """L2 distance of the two gradients."""
    cosine: Tensor
    """Between the two; 0 where one of them is zero."""


def objective_of(
    method: Any, batch: Batch, attack: Search | None, *, craft_criterion: Criterion, criterion: Criterion
) -> Objective:
    """What ``train_step`` minimises: the method's loss at images that it crafts for the net that it is given.

    Args:
        method: Of a recipe; it crafts in its own ``attack_mode``, by default eval.
        batch: Images, labels, rows, progress.
        attack: ``regime.search(method, progress)``.
        craft_criterion: ``balance.attack``.
        criterion: ``balance.train``.

    Note:
        A method whose ``craft`` writes a memory (temporal ensembling) writes it at every call.
    """

    def objective(model: nn.Module) -> Tensor:
        x_adv = method.craft(model, batch, attack, craft_criterion)
        return method.losses(model, batch, x_adv, criterion).total.mean()

    return objective


def grad_norm(model: nn.Module, objective: Objective, *, seed: int = 0, mode: AttackMode = "eval") -> Tensor:
    """The L2 norm of the gradient over all weights, a 0-d tensor; arguments as of ``gradient_predictiveness``."""
    with attack_mode(model, mode):
        return _norm(_gradient(model, _trained(model), objective, seed))


def gradient_predictiveness(
    model: nn.Module, objective: Objective, *, step: float, seed: int = 0, mode: AttackMode = "eval"
) -> Predictiveness:
    """The gradient g at the weights w against the gradient at w - step * g / |g|.

    Both are of the same batch, and the attack, made anew at both, draws the same noise. The net, its ``.grad``, modes
    and buffers and the random generators are as before, weights bit for bit.

    Args:
        model: Unwrapped, in any mode.
        objective: See ``objective_of``; ``lambda net: cross_entropy(net(x), y).mean()`` for clean images.
        step: How far to move, an L2 length in the space of the weights that are trained.
        seed: Of the attack's noise.
        mode: The net's, for the outer gradient; ``train_frozen_stats`` has the batch statistics of training. An
            attack sets its own.
    """
    parameters = _trained(model)
    with attack_mode(model, mode):
        before = _gradient(model, parameters, objective, seed)
        norm = _norm(before)
        with _moved(parameters, before, step / _nonzero(norm)):
            after = _gradient(model, parameters, objective, seed)
    distance = _norm([a - b for a, b in zip(before, after, strict=True)])
    return Predictiveness(norm, distance, _cosine(before, after))


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _gradient(model: nn.Module, parameters: list[nn.Parameter], objective: Objective, seed: int) -> list[Tensor]:
    device = parameters[0].device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        torch.manual_seed(seed)
        grads = torch.autograd.grad(objective(model), parameters, allow_unused=True)
    return [torch.zeros_like(p) if grad is None else grad for p, grad in zip(parameters, grads, strict=True)]


def _norm(grads: list[Tensor]) -> Tensor:
    return torch.stack([grad.norm() for grad in grads]).norm()


def _cosine(first: list[Tensor], second: list[Tensor]) -> Tensor:
    sizes = _nonzero(_norm(first)), _nonzero(_norm(second))
    return torch.stack([((a / sizes[0]) * (b / sizes[1])).sum() for a, b in zip(first, second, strict=True)]).sum()


def _nonzero(size: Tensor) -> Tensor:
    return size.clamp_min(torch.finfo(size.dtype).tiny)


@contextmanager
def _moved(parameters: list[nn.Parameter], grads: list[Tensor], length: Tensor) -> Iterator[None]:
    values = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.sub_(length * grad)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, values, strict=True):
                parameter.copy_(value)


class GradientStability(Measured):
    """Norm of the training gradient, and its change after a step along it, on a fixed batch that is crafted anew."""

    names: ClassVar[tuple[str, ...]] = ("gradient_norm", "gradient_distance", "gradient_cosine")

    kind: Literal["gradient_stability"] = "gradient_stability"
    examples: Annotated[Whole, Field(ge=1)] = 128
    step: Annotated[Real, Field(gt=0)] = 0.1
    """How far to go along the gradient: an L2 length in the space of the weights."""

    def __call__(self, probe: Probe) -> dict[str, float]:
        """Of the method's own loss; a method with a memory is asked for the loss at the attack's images alone."""
        batch, _ = probe.batch(self.examples)
        criteria = probe.recipe.balance.attack_at(batch), probe.recipe.balance.train_at(batch)

        def plain(model: nn.Module) -> Tensor:
            return criteria[1](model(probe.attacked(batch, CounterNoise(0, batch.index))), batch.y).mean()

        own = objective_of(probe.method, batch, probe.search, craft_criterion=criteria[0], criterion=criteria[1])
        objective = plain if hasattr(probe.method, "remember") else own
        found = gradient_predictiveness(probe.model, objective, step=self.step)
        return dict(zip(self.names, map(float, found), strict=True))
