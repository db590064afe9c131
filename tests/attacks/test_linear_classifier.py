"""On a linear classifier the worst case inside any ball and the box is known exactly."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor

from closed_forms import worst_case
from inure.attacks import FGSM, PGD
from inure.losses import margin
from inure.threat import L1, L2, Linf
from tiny import linear_net

SHAPE = (3, 6, 6)
PIXELS = 108
MARGIN = partial(margin, kappa=float("inf"))
RADII = [Linf(epsilon=0.05), L2(epsilon=0.3), L1(epsilon=0.3)]


@pytest.fixture
def weight() -> Tensor:
    return torch.randn(2, PIXELS, dtype=torch.float64)


def increases(attack, weight: Tensor, x: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(what the attack gained, the most that can be gained), each (B,)."""
    net = linear_net(weight, torch.tensor([0.1, -0.1], dtype=torch.float64))
    x_adv = attack(net, x, y, loss=MARGIN)
    with torch.no_grad():
        gained = MARGIN(net(x_adv), y) - MARGIN(net(x), y)
    directions = (weight[1 - y] - weight[y]).numpy()
    best = [worst_case(attack.threat, w, flat) for w, flat in zip(directions, x.flatten(1).numpy(), strict=True)]
    return gained.numpy(), np.array(best)


def far_from_the_box(y: Tensor) -> Tensor:
    return 0.5 + 0.1 * (torch.rand(len(y), *SHAPE, dtype=torch.float64) - 0.5)


def at_the_bounds(y: Tensor) -> Tensor:
    return (1.5 * torch.rand(len(y), *SHAPE, dtype=torch.float64) - 0.25).clamp(0, 1)


@pytest.mark.parametrize("start", ["zero", "uniform", "gaussian"])
@pytest.mark.parametrize("threat", RADII, ids=str)
def test_pgd_reaches_epsilon_times_the_dual_norm_where_the_box_is_far(threat, start, weight):
    y = torch.arange(10) % 2
    attack = PGD(threat=threat, steps=40, step_size=threat.epsilon / 4, start=start)
    gained, best = increases(attack, weight, far_from_the_box(y), y)
    dual = {"linf": 1, "l2": 2, "l1": np.inf}[threat.kind]
    norm = np.linalg.norm((weight[1] - weight[0]).numpy(), ord=dual)
    np.testing.assert_allclose(best, threat.epsilon * norm, rtol=1e-9)
    # L2 and L1 projections aim a relative 1e-6 inside
    np.testing.assert_allclose(gained, best, rtol=1e-12 if threat.kind == "linf" else 1e-5)
    assert (gained <= best + 1e-9).all()


@pytest.mark.parametrize("threat", [*RADII, Linf(epsilon=0.5), L2(epsilon=3), L1(epsilon=5)], ids=str)
def test_pgd_comes_within_a_quarter_of_the_worst_case_at_the_bounds_of_the_box(threat, weight):
    y = torch.arange(10) % 2
    gained, best = increases(PGD(threat=threat, steps=40, start="zero"), weight, at_the_bounds(y), y)
    assert (gained <= best + 1e-9).all()
    assert (1.25 * gained >= best).all()


@pytest.mark.parametrize("attack", [FGSM(), FGSM(start="uniform", step_size=1), PGD(start="zero"), PGD()], ids=str)
def test_linf_attacks_reach_the_worst_case_at_the_bounds_of_the_box_exactly(attack, weight):
    y = torch.arange(10) % 2
    attack = attack.model_copy(update={"threat": Linf(epsilon=0.1)})
    gained, best = increases(attack, weight, at_the_bounds(y), y)
    np.testing.assert_allclose(gained, best, rtol=1e-12)


def test_fgsm_under_l2_and_l1_takes_the_steepest_step_and_reaches_the_worst_case(weight):
    y = torch.arange(10) % 2
    for threat in RADII[1:]:
        gained, best = increases(FGSM(threat=threat), weight, far_from_the_box(y), y)
        np.testing.assert_allclose(gained, best, rtol=1e-5)


@pytest.mark.parametrize("epsilon", [0.1, 0.7, 3.0])
def test_the_closed_forms_agree_with_general_solvers(epsilon):
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=6), np.array([0, 1, 0.2, 0.5, 0.9, 0.05])
    # L1 as a linear programme over d = up - down
    best = linprog(
        np.r_[-w, w], A_ub=np.ones((1, 12)), b_ub=[epsilon], bounds=[*((0, 1 - v) for v in x), *((0, v) for v in x)]
    )  # fmt: skip
    assert worst_case(L1(epsilon=epsilon), w, x) == pytest.approx(-best.fun, rel=1e-9)
    best = minimize(
        lambda d: -w @ d, np.zeros(6), jac=lambda d: -w, bounds=list(zip(-x, 1 - x, strict=True)), method="SLSQP",
        constraints={"type": "ineq", "fun": lambda d: epsilon**2 - d @ d, "jac": lambda d: -2 * d},
        options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    assert worst_case(L2(epsilon=epsilon), w, x) == pytest.approx(-best.fun, rel=1e-6)
