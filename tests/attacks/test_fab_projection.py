"""The nearest point on a hyperplane inside [0, 1], against general solvers."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from inure.attacks.fab_projection import dual_norm, toward_plane
from inure.threat import L1, L2, Linf

THREATS = [Linf(), L2(), L1()]
PIXELS = 7
threats = pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.kind)
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}


def problems(size: int = 24):
    """Pixels at and near 0 and 1, normals with zeros, needs of both signs, all within reach."""
    x = (1.4 * torch.rand(size, PIXELS, dtype=torch.float64) - 0.2).clamp(0, 1)
    normal = torch.randn(size, PIXELS, dtype=torch.float64)
    normal[::3, 2] = 0
    normal[::4, 3] = normal[::4, 4]
    high = (normal.clamp_min(0) * (1 - x) + normal.clamp_max(0) * -x).sum(1)
    low = (normal.clamp_min(0) * -x + normal.clamp_max(0) * (1 - x)).sum(1)
    share = 0.05 + 0.9 * torch.rand(size, dtype=torch.float64)
    return x, normal, torch.where(torch.arange(size) % 2 == 0, share * high, share * low)


def least_norm(threat, x, normal, need):
    """The optimum by a solver that knows nothing of the structure."""
    bounds, n = list(zip(-x, 1 - x, strict=True)), len(x)
    if threat.kind == "linf":  # (d, t): least t with |d| <= t
        over = np.hstack([np.vstack([np.eye(n), -np.eye(n)]), -np.ones((2 * n, 1))])
        found = linprog(
            np.r_[np.zeros(n), 1], over, np.zeros(2 * n), np.r_[normal, 0][None], [need], [*bounds, (0, None)]
        )  # fmt: skip
        return found.fun
    if threat.kind == "l1":  # d = up - down
        room = [*((0, 1 - v) for v in x), *((0, v) for v in x)]
        return linprog(np.ones(2 * n), A_eq=np.r_[normal, -normal][None], b_eq=[need], bounds=room).fun
    found = minimize(
        lambda d: d @ d, np.zeros(n), jac=lambda d: 2 * d, bounds=bounds, method="SLSQP",
        constraints={"type": "eq", "fun": lambda d: normal @ d - need, "jac": lambda d: normal},
        options={"ftol": 1e-15, "maxiter": 1000},
    )  # fmt: skip
    return np.sqrt(found.fun)


@threats
def test_the_way_is_on_the_plane_in_the_box_and_the_shortest_there_is(threat):
    x, normal, need = problems()
    way = toward_plane(threat, x, normal, need)
    assert torch.allclose((normal * way).sum(1), need, rtol=1e-12, atol=1e-12)
    assert (x + way).min() >= -1e-15
    assert (x + way).max() <= 1 + 1e-15
    for row in range(len(x)):
        expected = least_norm(threat, x[row].numpy(), normal[row].numpy(), float(need[row]))
        assert np.linalg.norm(way[row].numpy(), ORDER[threat.kind]) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@threats
def test_a_plane_out_of_reach_is_approached_as_far_as_the_box_goes(threat):
    x, normal, need = problems()
    way = toward_plane(threat, x, normal, 1000 * need.sign())
    corner = torch.where(normal * need[:, None] > 0, 1 - x, -x) * (normal != 0)
    assert torch.allclose(way, corner, rtol=0, atol=1e-12)


@threats
def test_far_from_the_box_the_length_is_the_gap_over_the_dual_norm(threat):
    x, normal = torch.full((5, 40), 0.5), torch.randn(5, 40)
    need = 0.1 * dual_norm(threat, normal)
    way = toward_plane(threat, x, normal, need)
    torch.testing.assert_close(threat.distance(way, torch.zeros_like(way)), torch.full((5,), 0.1))


@threats
def test_a_normal_or_a_need_of_zero_and_pixels_without_room_give_no_nan(threat):
    x = torch.tensor([[0.0, 1.0, 0.5], [0.0, 1.0, 0.5], [0.0, 1.0, 1.0], [0.2, 0.3, 0.4]])
    normal = torch.tensor([[0.0, 0, 0], [1, 2, 3], [-1, 1, 1], [1e-38, 1e-20, 1e10]])
    way = toward_plane(threat, x, normal, torch.tensor([1.0, 0.0, 1.0, 1.0]))
    assert way.isfinite().all()
    assert (way[:3] == 0).all()


@threats
def test_each_row_is_found_alone_and_in_single_precision_too(threat):
    x, normal, need = problems()
    whole = toward_plane(threat, x, normal, need)
    assert torch.equal(whole[3:4], toward_plane(threat, x[3:4], normal[3:4], need[3:4]))
    single = toward_plane(threat, x.float(), normal.float(), need.float())
    assert torch.allclose(threat.distance(single.double(), 0 * x), threat.distance(whole, 0 * x), atol=1e-5)


@threats
def test_the_dual_norm_is_the_most_that_a_unit_of_the_norm_gains(threat):
    v = torch.tensor([[3.0, -4.0, 0.0]])
    assert dual_norm(threat, v).tolist() == [{"linf": 7, "l2": 5, "l1": 4}[threat.kind]]
