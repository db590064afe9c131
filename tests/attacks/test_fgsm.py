"""FGSM against its formula, and against PGD with one step."""

import pytest
import torch

from inure.attacks import FGSM, PGD
from inure.losses import cross_entropy, margin
from inure.threat import L1, L2, Linf
from tiny import noise_of


def gradient(net, x, y, loss=cross_entropy):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(loss(net(x), y).sum(), x)[0]


@pytest.mark.parametrize("loss", [cross_entropy, margin])
def test_fgsm_is_one_sign_step_of_size_epsilon_clamped_to_the_box(net, batch, loss):
    x_adv = FGSM(threat=Linf(epsilon=0.1))(net, batch.x, batch.y, loss=loss)
    grad = gradient(net, batch.x, batch.y, loss)
    assert torch.allclose(x_adv, (batch.x + 0.1 * grad.sign()).clamp(0, 1), rtol=0, atol=1e-7)
    assert not torch.equal(x_adv, batch.x)


def test_rs_fgsm_starts_uniformly_steps_one_and_a_quarter_and_projects(net, batch):
    attack = FGSM(threat=Linf(epsilon=0.1), start="uniform", step_size=0.125)
    x_adv = attack(net, batch.x, batch.y, noise=noise_of(batch))
    start = (batch.x + 0.1 * (2 * noise_of(batch).uniform(batch.x) - 1)).clamp(0, 1)
    moved = start + 0.125 * gradient(net, start, batch.y).sign()
    expected = torch.minimum(torch.maximum(moved, batch.x - 0.1), batch.x + 0.1).clamp(0, 1)
    assert torch.allclose(x_adv, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("threat", [Linf(epsilon=0.1), L2(epsilon=0.5), L1(epsilon=2)], ids=str)
def test_fgsm_is_pgd_with_one_step_of_size_epsilon_bit_for_bit(net, batch, threat):
    one_step = PGD(threat=threat, steps=1, step_size=threat.epsilon, start="zero")
    x_adv = FGSM(threat=threat)(net, batch.x, batch.y)
    assert torch.equal(x_adv, one_step(net, batch.x, batch.y))
