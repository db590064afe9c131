"""foolbox, written by others, takes the same steps and finds the same robust accuracy."""

import foolbox
import pytest
import torch

from inure.attacks import DDN, FGSM, PGD
from inure.threat import L2, Linf
from tiny import tiny_batch


def accuracy(net, x, y):
    with torch.no_grad():
        return float((net(x).argmax(1) == y).float().mean())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (FGSM(threat=Linf(epsilon=0.02)), foolbox.attacks.LinfFastGradientAttack(random_start=False)),
        (
            PGD(threat=Linf(epsilon=0.02), steps=7, step_size=0.005, start="zero"),
            foolbox.attacks.LinfPGD(abs_stepsize=0.005, steps=7, random_start=False),
        ),
        (
            PGD(threat=L2(epsilon=0.2), steps=7, step_size=0.06, start="zero"),
            foolbox.attacks.L2PGD(abs_stepsize=0.06, steps=7, random_start=False),
        ),
    ],
    ids=["FGSM", "Linf", "L2"],
)  # fmt: skip
def test_iterates_and_robust_accuracy_agree_with_foolbox(net, ours, theirs):
    batch = tiny_batch(64)
    with torch.no_grad():
        y = net(batch.x).argmax(1)
    y[:8] = batch.y[:8]
    epsilon = float(ours.threat.epsilon)
    other, _, _ = theirs(foolbox.PyTorchModel(net, bounds=(0, 1)), batch.x, y, epsilons=epsilon)
    x_adv = ours(net, batch.x, y)
    assert (x_adv - batch.x).abs().amax() > 0
    assert torch.allclose(x_adv, other, rtol=0, atol=1e-5)
    assert accuracy(net, x_adv, y) == accuracy(net, other, y)
    assert 0.02 < accuracy(net, x_adv, y) < 0.98 * accuracy(net, batch.x, y)


def test_ddn_finds_the_points_that_foolbox_finds(net):
    batch = tiny_batch(32)
    with torch.no_grad():
        y = net(batch.x).argmax(1)
    ours = DDN(steps=40).nearest(net, batch.x, y)
    theirs = foolbox.attacks.DDNAttack(steps=40)
    _, other, found = theirs(foolbox.PyTorchModel(net, bounds=(0, 1)), batch.x, y, epsilons=None)
    assert found.all()
    assert accuracy(net, ours, y) == 0
    # Single precision lets a few runs part where a point is at the boundary
    same = (ours - other).abs().flatten(1).amax(1) < 1e-4
    assert same.float().mean() > 0.8
    distance, expected = L2().distance(ours, batch.x), L2().distance(other, batch.x)
    torch.testing.assert_close(distance, expected, rtol=0.02, atol=0)
