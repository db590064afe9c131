"""Pyramid: an independent version by autograd, the closed form, and that no evaluation can be fooled by it."""

import pytest
import torch
import torch.nn.functional as F

from inure.attacks import PGD, Pyramid
from inure.evaluation.metered import Metered
from inure.evaluation.suites import Member
from inure.evaluation.verdicts import judge
from inure.losses import cross_entropy
from inure.methods import CoTraining
from inure.recipe.recipe import load_recipe
from inure.settings.errors import UserError
from inure.threat import Linf
from tiny import linear_net, noise_of, tiny_batch, tiny_net

# Nothing that cancels: then a rounding error would decide on which side of 0 or 1 a pixel is
LEVELS = {"cells": [6, 3, 2, 1], "scalars": [3.14159, 1.73205, 1.41421, 0.98765]}
THREAT = Linf(epsilon=0.05)


def by_autograd(attack, net, x, y):
    """The definition: the loss as a function of the levels, clamp included, and one sign step for each of them."""
    size = x.shape[-1]
    levels = [torch.zeros(*x.shape[:2], size // c, size // c, dtype=x.dtype) for c in attack.cells]

    def image(levels):
        whole = torch.zeros_like(x)
        for side, scalar, delta in zip(attack.cells, attack.scalars, levels, strict=True):
            whole = whole + scalar * torch.kron(delta, torch.ones(side, side, dtype=x.dtype))
        # Not clamp: which gradient it has at 0 and 1 themselves depends on the version of torch
        moved = torch.where(x + whole < 0, 0.0, x + whole)
        return torch.where(moved > 1, 1.0, moved)

    for _ in range(attack.steps):
        levels = [d.requires_grad_() for d in levels]
        grads = torch.autograd.grad(cross_entropy(net(image(levels)), y).sum(), levels)
        step = attack.threat.epsilon / 6 if attack.step_size is None else attack.step_size
        moved = [d.detach() + step * g.sign() for d, g in zip(levels, grads, strict=True)]
        levels = [d.clamp(-attack.threat.epsilon, attack.threat.epsilon) for d in moved]
    return image(levels)


@pytest.mark.parametrize("options", [{}, {"step_size": 0.03, "steps": 3}], ids=["defaults", "beyond"])
def test_it_is_sign_ascent_on_every_level_through_the_clamp(options):
    net, batch = tiny_net().eval().double(), tiny_batch(16)
    x = batch.x.double()
    attack = Pyramid(threat=THREAT, **LEVELS, **options)
    x_adv = attack(net, x, batch.y)
    assert torch.allclose(x_adv, by_autograd(attack, net, x, batch.y), rtol=0, atol=1e-12)
    assert ((x_adv == 0) | (x_adv == 1)).float().mean() > 0.1, "the clamp played no part"


def test_far_from_the_box_a_linear_net_meets_its_worst_case_at_every_level():
    weight = torch.randn(2, 108, dtype=torch.float64)
    net = linear_net(weight, torch.zeros(2, dtype=torch.float64))
    x, y = torch.full((2, 3, 6, 6), 0.5, dtype=torch.float64), torch.arange(2)
    x_adv = Pyramid(threat=THREAT, steps=6, **LEVELS)(net, x, y)
    uphill = (weight[1 - y] - weight[y]).view(2, 3, 6, 6)
    worst = x.clone()
    for side, scalar in zip(LEVELS["cells"], LEVELS["scalars"], strict=True):
        for top in range(0, 6, side):
            for left in range(0, 6, side):
                cell = (..., slice(top, top + side), slice(left, left + side))
                worst[cell] += scalar * 0.05 * uphill[cell].sum((-2, -1), keepdim=True).sign()
    assert torch.allclose(x_adv, worst, rtol=0, atol=1e-12)
    assert Linf(epsilon=0.05 * 7.28).distance(x_adv, x).max() > 0.05, "nothing left the ball of one level"


def test_one_level_of_pixels_is_pgd_where_the_box_is_far():
    net, batch = tiny_net().eval().double(), tiny_batch()
    x = 0.3 + 0.4 * batch.x.double()
    ours = Pyramid(threat=THREAT, cells=[1], scalars=[1], step_size=0.02)(net, x, batch.y)
    pgd = PGD(threat=THREAT, steps=5, step_size=0.02, start="zero")(net, x, batch.y)
    assert torch.allclose(ours, pgd, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "cells"), [(8, [4, 2, 1]), (32, [32, 16, 1]), (64, [32, 16, 1]), (224, [32, 16, 1])])
def test_a_level_is_constant_in_its_cells_at_every_size_of_image(size, cells):
    weight = torch.randn(2, size * size)
    net, x = linear_net(weight, torch.zeros(2)), torch.full((1, 1, size, size), 0.5)
    for side in cells:
        attack = Pyramid(threat=THREAT, cells=[side], scalars=[1], start="uniform", steps=1)
        delta = attack(net, x, torch.zeros(1, dtype=torch.long)) - x
        coarse = F.avg_pool2d(delta, side)
        assert coarse.shape[-1] == size // side
        assert torch.allclose(F.interpolate(coarse, size=size), delta, rtol=0, atol=1e-6)
        assert delta.abs().max() <= 0.05 + 1e-6


def test_cells_that_do_not_fit_and_a_scalar_too_few_are_one_line():
    x, y = torch.rand(2, 3, 6, 6), torch.arange(2)
    with pytest.raises(UserError, match=r"cells: got \[32, 16\]; allowed divisors of 6 x 6 pixels: 1 \| 2 \| 3 \| 6"):
        Pyramid()(tiny_net().eval(), x, y)
    with pytest.raises(UserError, match=r"scalars: got \[1\.0\]; allowed 2 numbers"):
        Pyramid(cells=[2, 1], scalars=[1])


def test_a_verdict_on_its_images_is_refused():
    net, batch = tiny_net().eval(), tiny_batch()
    member = Member("pyramid", Pyramid(threat=THREAT, **LEVELS), cross_entropy)
    with pytest.raises(RuntimeError, match="pyramid: returned a perturbation of"):
        judge(Metered(net), batch.x, batch.y, batch.index, member, threat=THREAT, seed=0)


def test_co_training_takes_it_with_random_targets():
    overrides = ["method.attack.kind=pyramid", "method.target=random", "method.attack.cells=[4,2,1]"]
    method = load_recipe("digits/soup", [*overrides, "method.attack.threat.epsilon=0.01"]).method
    assert isinstance(method, CoTraining)
    batch, net = tiny_batch(shape=(1, 8, 8)), tiny_net(shape=(1, 8, 8)).train()
    noise = noise_of(batch)
    x_adv = method.craft(net, batch, lambda *a, **o: method.attack(*a, **o, noise=noise), cross_entropy)
    distance = Linf().distance(x_adv, batch.x)
    assert (distance > 0.011).all(), "no pixel went further than one level may"
    assert (distance <= 0.31 + 1e-6).all()
    assert method.losses(net, batch, x_adv, cross_entropy).total.isfinite().all()
