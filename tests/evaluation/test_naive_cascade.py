"""The cascade against its naive form: the same verdicts, at a fraction of the passes."""

import pytest
import torch
from digit_nets import tensors
from naive_cascade import Counting, _onto_plane, cascade

from inure.attacks import APGD, FAB, Square, Targeted
from inure.evaluation import SUITES, Member, evaluate
from inure.losses import cross_entropy, targeted_dlr
from inure.threat import Linf


def short_autoattack(threat, steps, queries):
    """The suite autoattack with fewer steps."""
    search = APGD(threat=threat, steps=steps, keep="worst")
    return [
        Member("apgd-ce", search, cross_entropy),
        Member("apgd-t", Targeted(threat=threat, search=search), targeted_dlr, classes=4),
        Member("fab-t", FAB(threat=threat, steps=steps, targets=9), cross_entropy),
        Member("square", Square(threat=threat, queries=queries), SUITES["square"](threat)[0].loss),
    ]


def test_the_naive_projection_is_the_nearest_point_of_the_plane():
    points, w = torch.rand(20, 12, dtype=torch.float64), torch.randn(20, 12, dtype=torch.float64)
    b = -(w * torch.rand(20, 12, dtype=torch.float64)).sum(1)  # the plane passes through the box
    move = _onto_plane(points, w, b)
    moved = points + move
    assert moved.min() >= -1e-9
    assert moved.max() <= 1 + 1e-9
    assert ((w * moved).sum(1) + b).abs().max() < 1e-9
    # Whoever moves less than the farthest is at the bound, so that nothing nearer is in the plane
    less = move.abs() < move.abs().amax(1, keepdim=True) - 1e-9
    assert ((moved[less] < 1e-9) | (moved[less] > 1 - 1e-9)).all()


@pytest.mark.parametrize("epsilon", [0.03, 0.06])
def test_verdicts_are_those_of_the_naive_cascade_at_fewer_passes(cnn, digits, monkeypatch, epsilon):
    x, y = tensors(digits.head(80))
    monkeypatch.setitem(SUITES, "autoattack", lambda threat: short_autoattack(threat, 25, 60))
    net = Counting(cnn)
    naive = cascade(net, x, y, epsilon, steps=25, queries=60)
    found = evaluate(cnn, x, y, suite="autoattack", threat=Linf(epsilon=epsilon))
    assert round(found.summary["clean_accuracy"] * 80) == naive["clean"].sum()
    for attack in found.summary["attacks"]:  # their random starts differ
        assert abs(round(attack["robust_accuracy"] * 80) - int(naive[attack["name"]].sum())) <= 3, attack["name"]
    assert (found.robust != naive["square"]).sum() <= 2
    assert 10 < found.robust.sum() < 75
    forwards = 80 + sum(attack["forwards"] for attack in found.summary["attacks"])
    assert forwards < 0.9 * net.forwards
    assert sum(attack["backwards"] for attack in found.summary["attacks"]) < 0.98 * net.gradients


def test_a_net_that_falls_at_once_costs_a_tenth_of_all_the_steps(cnn, digits):
    x, y = tensors(digits.head(64))
    threat = Linf(epsilon=0.3)
    found = evaluate(cnn, x, y, suite="autoattack", threat=threat)
    assert found.robust.sum() == 0
    right = round(found.summary["clean_accuracy"] * 64)
    attacks = found.summary["attacks"]
    assert sum(a["forwards"] for a in attacks) <= 0.1 * right * 102
    assert sum(a["backwards"] for a in attacks) <= 0.1 * right * 101
