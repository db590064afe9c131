"""N-FGSM, ZeroGrad and MultiGrad: their limits are FGSM's, and their sizes those of the lemmas."""

import pytest
import torch
from torch import nn

from inure.attacks import FGSM, NFGSM, PGD, MultiGrad, ZeroGrad, input_gradient
from inure.losses import cross_entropy
from inure.recipe.recipe import load_recipe
from inure.settings.errors import UserError
from inure.threat import Linf
from tiny import noise_of, tiny_batch

LINF = Linf(epsilon=0.05)


class Fixed(nn.Module):
    """Two logits whose gradient is ``direction`` wherever the image lies."""

    def __init__(self, direction):
        super().__init__()
        self.direction = direction

    def forward(self, x):
        score = (x * self.direction).flatten(1).sum(1)
        return torch.stack([-score, score], dim=1)


def grey(size=64, pixels=24):
    """Images far from black and white, and random signs."""
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(3, pixels, pixels, generator=generator)
    return torch.full((size, 3, pixels, pixels), 0.5), torch.zeros(size, dtype=torch.long), Fixed(direction)


def test_without_noise_it_is_fgsm_bit_for_bit(net, batch):
    for step_size in (None, 0.03):
        plain = FGSM(threat=LINF, step_size=step_size)(net, batch.x, batch.y)
        assert torch.equal(NFGSM(threat=LINF, noise=0, step_size=step_size)(net, batch.x, batch.y), plain)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_size_of_an_n_fgsm_perturbation_is_that_of_the_lemma(k):
    x, y, net = grey()
    x_adv = NFGSM(threat=LINF, noise=k)(net, x, y)
    rms = ((x_adv - x) / 0.05).square().mean().sqrt().item()
    assert rms == pytest.approx((k**2 / 3 + 1) ** 0.5, rel=0.01)
    assert (x_adv - x).abs().max() <= 0.05 * (k + 1) + 1e-6


@pytest.mark.parametrize(("step", "size"), [(1, 0.8165), (1.25, 0.8883), (2, 1.0)])
def test_the_size_of_an_rs_fgsm_perturbation_is_that_of_the_lemma(step, size):
    x, y, net = grey()
    x_adv = FGSM(threat=LINF, start="uniform", step_size=step * 0.05)(net, x, y)
    assert ((x_adv - x) / 0.05).square().mean().sqrt().item() == pytest.approx(size, rel=0.01)


def test_zero_grad_with_quantile_zero_is_rs_fgsm_with_a_double_step(net, batch):
    found = ZeroGrad(threat=LINF, quantile=0)(net, batch.x, batch.y, noise=noise_of(batch))
    plain = FGSM(threat=LINF, start="uniform", step_size=0.1)(net, batch.x, batch.y, noise=noise_of(batch))
    assert torch.equal(found, plain)


@pytest.mark.parametrize("quantile", [0.1, 0.35, 0.7, 0.99])
def test_the_smallest_gradients_of_every_image_do_not_step(net, quantile):
    batch = tiny_batch(16)
    found = ZeroGrad(threat=LINF, quantile=quantile)(net, batch.x, batch.y, noise=noise_of(batch))
    start = LINF.random_start(batch.x, noise_of(batch))
    grad = input_gradient(net, start, batch.y, cross_entropy)[0].abs()
    for image in range(16):
        order = grad[image].flatten().argsort()
        left_out = int(quantile * (len(order) - 1))
        still = (found[image] == start[image]).flatten()
        assert still[order[:left_out]].all()
        inside = ((start[image] > 0.02) & (start[image] < 0.98)).flatten()[order[left_out:]]
        assert not still[order[left_out:]][inside].any()


def test_multi_grad_moves_where_all_signs_agree_from_the_image_itself(net, batch):
    attack = MultiGrad(threat=LINF, samples=4)
    found = attack(net, batch.x, batch.y, noise=noise_of(batch))
    noise = noise_of(batch)
    signs = torch.stack(
        [input_gradient(net, LINF.random_start(batch.x, noise), batch.y, cross_entropy)[0].sign() for _ in range(4)]
    )
    common = torch.where((signs == signs[0]).all(0), signs[0], 0.0)
    assert 0.05 < (common == 0).float().mean() < 0.95
    assert torch.equal(found, (batch.x + 0.05 * common).clamp(0, 1))


def test_multi_grad_with_fewer_that_must_agree_moves_more(net, batch):
    moved = []
    for agree in (3, 4, 5):
        x_adv = MultiGrad(threat=LINF, samples=5, agree=agree)(net, batch.x, batch.y, noise=noise_of(batch))
        moved.append((x_adv != batch.x).float().mean().item())
    assert moved[0] > moved[1] > moved[2] > 0


def test_on_a_linear_net_all_reach_the_corner():
    x, y, net = grey(4)
    corner = x + 0.05 * net.direction.sign()
    for attack in (ZeroGrad(threat=LINF, quantile=0), MultiGrad(threat=LINF), NFGSM(threat=LINF, noise=0)):
        torch.testing.assert_close(attack(net, x, y), corner)
    assert torch.equal(
        MultiGrad(threat=LINF)(net, x, y), PGD(threat=LINF, start="zero", steps=1, step_size=0.1)(net, x, y)
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method.attack.kind=multi_grad", "method.attack.agree=1"], "agree: got 1; allowed 2 to 3"),
        (["method.attack.kind=multi_grad", "method.attack.agree=4"], "agree: got 4; allowed 2 to 3"),
        (["method.attack.kind=zero_grad", "method.attack.quantile=1"], "quantile: got 1; allowed a number < 1"),
        (["method.attack.kind=n_fgsm", "method.attack.threat.kind=l2"], "threat"),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        load_recipe("cifar10/pgd_at_resnet18", overrides)
