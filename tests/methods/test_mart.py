"""MART: its formula, and its limits for beta and for confident predictions."""

import pytest
import torch
from torch import nn

from inure.attacks import PGD
from inure.losses import boosted_cross_entropy, cross_entropy
from inure.methods import MART
from inure.threat import Linf
from inure.types import Batch
from tiny import noise_of, soft, tiny_net


class Sure(nn.Module):
    """Logits that are a scale times the first pixels: as sure as the scale is large."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return self.scale * x.flatten(1)[:, :3]


@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_the_loss_is_boosted_cross_entropy_plus_kl_weighted_by_one_minus_p(net, batch, labels):
    y = batch.y if labels == "hard" else soft(batch.y)
    batch = Batch(batch.x, y, batch.index, batch.progress)
    x_adv = torch.rand_like(batch.x)
    losses = MART(beta=3).losses(net, batch, x_adv, cross_entropy)
    with torch.no_grad():
        p, q = net(batch.x).double().softmax(1), net(x_adv).double().softmax(1)
    target = nn.functional.one_hot(y, 4).double() if labels == "hard" else y.double()
    wrong = q.clone()
    wrong[torch.arange(8), target.argmax(1)] = 0
    boosted = -(target * q.log()).sum(1) - (1.0001 - wrong.amax(1) + 1e-12).log()
    weighted = (p * (p / q).log()).sum(1) * (1.0000001 - (p * target).sum(1))
    assert torch.allclose(losses.total.double(), boosted + 3 * weighted, rtol=1e-5, atol=1e-5)
    assert torch.allclose(losses.parts["boosted"].double(), boosted, rtol=1e-5, atol=1e-5)
    assert torch.allclose(losses.parts["weighted_kl"].double(), weighted, rtol=1e-4, atol=1e-6)


def test_with_beta_zero_only_the_boosted_cross_entropy_of_the_adversarial_images_is_left(batch):
    x_adv = torch.rand_like(batch.x)
    total = MART(beta=0).losses(tiny_net().train(), batch, x_adv, cross_entropy).total
    logits = tiny_net().train()(torch.cat([batch.x, x_adv]))[len(batch.x) :]
    assert torch.equal(total, boosted_cross_entropy(logits, batch.y))


def test_the_weight_vanishes_for_a_confident_right_prediction_and_is_one_for_a_confident_wrong_one():
    x, x_adv = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1), torch.full((1, 3, 1, 1), 0.5)
    for label, weight in ((0, 0.0), (1, 1.0)):
        batch = Batch(x, torch.tensor([label]), torch.zeros(1, dtype=torch.long), 0.0)
        for scale in (1.0, 5.0, 40.0):
            part = MART().losses(Sure(scale), batch, x_adv, cross_entropy).parts["weighted_kl"]
            p = (scale * x.flatten(1)).softmax(1)
            kl = (p * (p * 3).log()).sum()
            assert part.item() == pytest.approx(float((1.0000001 - p[0, label]) * kl), rel=1e-4, abs=1e-6)
        assert part.item() == pytest.approx(weight * float(torch.tensor(3.0).log()), abs=1e-5)


def test_the_weight_is_not_detached(net, batch):
    x_adv = torch.rand_like(batch.x)
    losses = MART(beta=1).losses(net, batch, x_adv, cross_entropy)
    (found,) = torch.autograd.grad(losses.parts["weighted_kl"].sum(), net.net[-1].bias)
    p, q = net(batch.x).softmax(1), net(x_adv).softmax(1)
    kl, right = (p * (p / q).log()).sum(1), p.gather(1, batch.y[:, None]).squeeze(1)
    (whole,) = torch.autograd.grad((kl * (1 - right)).sum(), net.net[-1].bias, retain_graph=True)
    (cut,) = torch.autograd.grad((kl * (1 - right.detach())).sum(), net.net[-1].bias)
    assert torch.allclose(found, whole, rtol=0, atol=1e-6)
    assert not torch.allclose(found, cut, rtol=0, atol=1e-4)


def test_the_attack_is_plain_pgd_on_the_attack_criterion_in_eval_mode(batch):
    attack = PGD(threat=Linf(epsilon=0.1), steps=3, start="gaussian")
    net = tiny_net().train()
    x_adv = MART(attack=attack).craft(
        net, batch, lambda *a, **o: attack(*a, **o, noise=noise_of(batch)), cross_entropy
    )  # fmt: skip
    assert torch.equal(x_adv, attack(tiny_net().eval(), batch.x, batch.y, noise=noise_of(batch)))
    assert MART().attack.start == "gaussian"
    assert net.training


def test_the_train_criterion_plays_no_part_in_the_outer_loss(net, batch):
    x_adv = torch.rand_like(batch.x)
    totals = [MART().losses(net, batch, x_adv, c).total for c in (cross_entropy, lambda logits, y: logits.sum(1))]
    assert torch.equal(*totals)
