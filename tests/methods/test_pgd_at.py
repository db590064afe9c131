"""PGD-AT: the attack climbs the criterion, in the mode asked for, and the loss is taken at what it found."""

import pytest
import torch

from inure.attacks import PGD
from inure.balance import CrossEntropy
from inure.losses import cross_entropy, margin
from inure.methods import PGDAT
from inure.threat import Linf
from tiny import noise_of, tiny_net

ATTACK = PGD(threat=Linf(epsilon=0.1), steps=3, start="zero")


def test_crafting_is_the_attack_on_the_attack_criterion(net, batch):
    for criterion in (cross_entropy, margin, CrossEntropy(label_smoothing=0.2)):
        x_adv = PGDAT(attack=ATTACK).craft(net, batch, ATTACK, criterion)
        assert torch.equal(x_adv, ATTACK(net, batch.x, batch.y, loss=criterion))


def test_the_attack_that_is_handed_in_is_used_not_the_methods_own(net, batch):
    """``train_step`` hands in the attack as the regime has it at this progress."""
    weaker = PGD(threat=Linf(epsilon=0.01), steps=1, start="zero")
    x_adv = PGDAT(attack=ATTACK).craft(net, batch, weaker, cross_entropy)
    assert (x_adv - batch.x).abs().max() <= 0.01 + 1e-6


def test_the_loss_is_the_train_criterion_at_the_adversarial_images(net, batch):
    x_adv, criterion = torch.rand_like(batch.x), CrossEntropy(label_smoothing=0.1)
    losses = PGDAT().losses(net, batch, x_adv, criterion)
    assert torch.equal(losses.total, criterion(net(x_adv), batch.y))


def test_with_epsilon_zero_pgd_at_is_standard_training(net, batch):
    attack = PGD(threat=Linf(epsilon=0))
    method = PGDAT(attack=attack)
    losses = method.losses(net, batch, method.craft(net, batch, attack, cross_entropy), cross_entropy)
    assert torch.equal(losses.total, cross_entropy(net(batch.x), batch.y))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", ["eval", "train", "train_frozen_stats"])
def test_the_net_is_attacked_in_the_mode_asked_for_and_gets_its_own_back(batch, mode, training):
    crafted = PGDAT(attack_mode=mode).craft(tiny_net().train(training), batch, ATTACK, cross_entropy)
    assert torch.equal(crafted, ATTACK(tiny_net().train(mode != "eval"), batch.x, batch.y))
    net = tiny_net().train(training)
    modes, mean = [], net.net[1].running_mean.clone()
    net.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    PGDAT(attack_mode=mode).craft(net, batch, ATTACK, cross_entropy)
    assert modes == [mode != "eval"] * 3
    assert net.training == training
    assert torch.equal(net.net[1].running_mean, mean) == (mode != "train")


def test_the_mode_of_the_attack_matters_for_batch_norm(batch):
    def crafted(mode):
        method = PGDAT(attack=ATTACK, attack_mode=mode)
        return method.craft(tiny_net(), batch, lambda *a, **o: ATTACK(*a, **o, noise=noise_of(batch)), cross_entropy)

    assert not torch.equal(crafted("eval"), crafted("train"))
    assert torch.equal(crafted("train"), crafted("train_frozen_stats"))
