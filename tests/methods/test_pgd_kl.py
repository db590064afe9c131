"""PGD-AT with a KL term: between PGD-AT and TRADES."""

import torch

from inure.attacks import PGD
from inure.balance import CrossEntropy
from inure.losses import cross_entropy
from inure.methods import PGDAT, PGDKL, TRADES
from inure.threat import Linf
from tiny import noise_of, tiny_net

ATTACK = PGD(threat=Linf(epsilon=0.1), steps=4)


def test_its_loss_is_the_criterion_at_the_adversarial_images_plus_the_kl_of_trades(net, batch):
    x_adv, criterion = torch.rand_like(batch.x), CrossEntropy(label_smoothing=0.1)
    found = PGDKL(beta=2.5).losses(net, batch, x_adv, criterion)
    trades = TRADES(beta=2.5).losses(net, batch, x_adv, criterion)
    assert torch.allclose(found.total, criterion(net(x_adv), batch.y) + 2.5 * trades.parts["robust_kl"], atol=1e-6)
    assert torch.allclose(found.parts["adversarial"] + 2.5 * found.parts["robust_kl"], found.total)


def test_with_beta_zero_it_is_pgd_at_in_eval_mode(net, batch):
    x_adv = torch.rand_like(batch.x)
    found = PGDKL(beta=0).losses(net, batch, x_adv, cross_entropy).total
    assert torch.allclose(found, PGDAT().losses(net, batch, x_adv, cross_entropy).total, atol=1e-6)


def test_it_attacks_as_pgd_at_does(batch):
    crafted = []
    for method in (PGDKL(attack=ATTACK), PGDAT(attack=ATTACK)):
        net = tiny_net().train()
        crafted.append(method.craft(net, batch, lambda *a, **o: ATTACK(*a, **o, noise=noise_of(batch)), cross_entropy))
    assert torch.equal(*crafted)
