"""Soups of whole nets with a common ancestor (Wortsman et al., 2022, arXiv:2203.05482; Croce et al., 2023).

Nets that were trained apart from random weights have no soup: the mean of their weights is none of them. Fine-tune
them from one net (``model.weights``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..libraries import Tensor, torch
from ..models import Classifier
from ..models.adapt import adapt
from ..models.adapters.stacks import adapter_names, plain_name
from ..settings.errors import UserError


def join(nets: Mapping[str, Classifier]) -> Classifier:
    """One net whose domains are the given ones: every sweep, rule and export of mixes then works on whole nets.

    Its parameters exist once per net (adapter ``all``); BatchNorm statistics of a mix are an approximation.

    Args:
        nets: At least two of one architecture, by name.

    Raises:
        UserError: If they differ in anything but their numbers, or have domains themselves.
    """
    names = list(nets)
    first = nets[names[0]]
    for name, net in nets.items():
        if net.mixture is not None:
            raise UserError(
                "RUN", f"{name}, a net with domains", "nets without domains", "inure soup of that run alone"
            )
        if _shapes(net.state_dict()) != _shapes(first.state_dict()):
            raise UserError("RUN", f"{name}, another net than {names[0]}", "runs of one architecture")
        if not (torch.equal(net.mean, first.mean) and torch.equal(net.std, first.std)):
            raise UserError("RUN", f"{name}, other mean and std than {names[0]}", "runs with one normalisation")
    joined = adapt(first, "all", names)
    stacks = {key: stack for key, stack in joined.state_dict().items() if key in adapter_names(joined)}
    with torch.no_grad():
        for place, name in enumerate(names):
            state = nets[name].state_dict()
            for key, stack in stacks.items():
                stack[place].copy_(state[plain_name(key)])
    return joined


def uniform_soup(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of the weights. Counters (integers) are those of the first net."""
    return weighted_soup(states, [1 / len(states)] * len(states))


def weighted_soup(states: Sequence[dict[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """sum_i w_i state_i; the weights sum to 1 (Croce et al., 2023, equation 3).

    Raises:
        UserError: If the states differ in names or shapes, or the weights do not sum to 1.
    """
    if abs(sum(weights) - 1) > 1e-6 or len(weights) != len(states):
        raise UserError("weights", list(weights), f"{len(states)} numbers whose sum is 1")
    if any(_shapes(state) != _shapes(states[0]) for state in states):
        raise UserError("states", "nets of different parameters", "nets of one architecture")
    soup = {}
    for name, first in states[0].items():
        if first.is_floating_point():
            total = sum(w * s[name].double() for w, s in zip(weights, states, strict=True))
            assert isinstance(total, Tensor)
            soup[name] = total.to(first.dtype)
        else:
            soup[name] = first.clone()
    return soup


def greedy_members(count: int, score: Callable[[Sequence[int]], float]) -> list[int]:
    """Which of ``count`` nets the greedy soup is the mean of (Wortsman et al., 2022, recipe 1).

    From the best net down, each joins if the score strictly improves.

    Args:
        count: How many nets there are.
        score: Members to the accuracy of their mean on held-out images, never the test set.
    """
    alone = [score([i]) for i in range(count)]
    order = sorted(range(count), key=lambda i: (-alone[i], i))
    members, best = [order[0]], alone[order[0]]
    for i in order[1:]:
        value = score([*members, i])
        if value > best:
            members, best = [*members, i], value
    return members


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
