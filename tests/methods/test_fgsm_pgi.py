"""FGSM-PGI: the prior of each image against a slow version, its memory, its passes, and exact resumes."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from inure.attacks import FGSM, PGD
from inure.balance import Balance
from inure.losses import cross_entropy
from inure.memory import facts_of
from inure.methods import FGSMPGI, PGDAT
from inure.methods.fgsm_pgi import _momentum
from inure.optimizers import SGD
from inure.recipe.recipe import Recipe, load_recipe
from inure.recipe.regime import Regime, with_attack
from inure.schedules import Ramp
from inure.settings.errors import UserError
from inure.steps import Joints
from inure.threat import L2, Linf
from inure.training.passes import passes
from inure.training.step import train_step
from processes import TINY, assert_resumes_exactly
from tiny import counting, memory_of, tiny_batch, tiny_net

EPSILON = 0.05


def method_of(**options) -> FGSMPGI:
    return FGSMPGI(attack=FGSM(threat=Linf(epsilon=EPSILON), start="uniform"), **{"storage": "float32", **options})


def slow_visit(net, x, y, prior, momentum, decay, norm):
    """One visit as the paper says it: (start, x_adv, next prior, next momentum), in pixel units, image by image."""
    start = torch.clamp(torch.clamp(x + prior, x - EPSILON, x + EPSILON), 0, 1)
    leaf = start.clone().requires_grad_()
    (grad,) = torch.autograd.grad(cross_entropy(net(leaf), y).sum(), leaf)
    sizes = grad.abs().flatten(1).sum(1).view(-1, 1, 1, 1)
    size = sizes if norm == "image" else sizes.sum()
    momentum = grad / size + decay * momentum

    def moved(direction):
        return torch.clamp(torch.clamp(start + EPSILON * direction.sign(), x - EPSILON, x + EPSILON), 0, 1)

    return start, moved(grad), moved(momentum if decay else grad) - x, momentum


@pytest.mark.parametrize("norm", ["batch", "image"])
@pytest.mark.parametrize("decay", [0.0, 0.3, 2.0])
def test_prior_and_momentum_follow_the_image_as_the_paper_says(norm, decay):
    method, net = method_of(momentum=decay, norm=norm, attack_mode="eval"), tiny_net().eval()
    memory, batch = memory_of(method), tiny_batch(8)
    torch.manual_seed(3)
    corners = torch.rand(8, 3, 6, 6).sub(0.5).sign()
    prior, momentum = EPSILON * corners, torch.zeros(8, 3, 6, 6)
    torch.manual_seed(3)
    for visit in range(4):
        x = torch.roll(batch.x, visit, -1)  # as if a crop had moved it
        now = replace(batch, x=x, memory=memory)
        x_adv = method.craft(net, now, method.attack, cross_entropy)
        start, expected, prior, momentum = slow_visit(net, x, batch.y, prior, momentum, decay, norm)
        assert torch.allclose(memory["fgsm_pgi.start"], start, atol=1e-6)
        assert torch.allclose(x_adv, expected, atol=1e-6)
        assert torch.allclose(memory["fgsm_pgi.prior"][batch.index] * EPSILON, prior, atol=1e-6)
    assert ("fgsm_pgi.momentum" in memory) == bool(decay)


def test_an_image_keeps_its_prior_wherever_it_stands_in_the_batch():
    method, net = method_of(norm="image", attack_mode="eval"), tiny_net().eval()
    batch, order = tiny_batch(8), torch.randperm(8, generator=torch.Generator().manual_seed(1))
    priors = []
    for second in (torch.arange(8), order):
        memory = memory_of(method)
        torch.manual_seed(0)
        method.craft(net, replace(batch, memory=memory), method.attack, cross_entropy)
        again = replace(batch, x=batch.x[second], y=batch.y[second], index=batch.index[second], memory=memory)
        method.craft(net, again, method.attack, cross_entropy)
        priors.append(memory["fgsm_pgi.prior"][batch.index])
    assert torch.allclose(priors[0], priors[1], atol=1e-5)


def test_the_first_visit_starts_at_a_random_corner_and_a_reset_begins_anew():
    method, net = method_of(reset=0.5), tiny_net()
    memory = memory_of(method)
    inner = replace(tiny_batch(8), x=torch.full((8, 3, 6, 6), 0.5), memory=memory)
    starts = []
    for progress in (0.0, 0.1, 0.49, 0.5, 0.6):
        method.craft(net, replace(inner, progress=progress), method.attack, cross_entropy)
        starts.append((memory["fgsm_pgi.start"] - 0.5) / EPSILON)
    for first in (starts[0], starts[3]):
        assert torch.allclose(first.abs(), torch.ones_like(first), atol=1e-5)
        assert abs(first.mean()) < 0.2
    assert not torch.equal(starts[0], starts[3])
    assert memory["fgsm_pgi.period"][inner.index].tolist() == [1] * 8
    assert memory["fgsm_pgi.period"][:100].eq(-1).all()  # nobody has seen them


@pytest.mark.parametrize("factor", [1e-12, 1e9])
@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_an_image_of_a_tiny_or_huge_gradient_keeps_its_momentum_beside_the_others(storage, factor):
    """``norm=batch`` divides by the mean gradient of the batch."""
    net, batch = tiny_net().eval(), tiny_batch(8)
    factors = torch.ones(8)
    factors[0] = factor
    kept = []
    for kind in (storage, "float32"):
        method = method_of(storage=kind, momentum=1.0, attack_mode="eval")
        now = replace(batch, memory=memory_of(method))
        torch.manual_seed(0)
        method.craft(net, now, method.attack, lambda logits, y: factors * cross_entropy(logits, y))
        kept.append(_momentum(now.memory, batch.index))
    found, expected = kept
    largest = expected.abs().amax((1, 2, 3), keepdim=True)
    assert (largest > 0).all()
    assert ((found - expected) / largest).abs().max() < 2**-11


@pytest.mark.parametrize(("storage", "error"), [("float32", 0.0), ("float16", 2**-12), ("int8", 1 / 254)])
def test_what_is_stored_is_as_near_as_it_says(storage, error):
    method = method_of(storage=storage)
    memory = memory_of(method)
    prior = 2 * torch.rand(8, 3, 6, 6) - 1
    rows = torch.arange(100, 108)
    method._write(memory, rows, prior)
    away = (method._read(memory, rows) - prior).abs().max()
    assert error / 2 <= away <= error * (1 + 1e-3)
    corners = prior.sign()
    method._write(memory, rows, corners)
    assert torch.equal(method._read(memory, rows), corners)
    assert memory["fgsm_pgi.prior"].dtype == getattr(torch, storage)


def test_the_loss_is_the_criterion_and_the_distance_of_the_logits():
    method, net, batch = method_of(weight=3.0), tiny_net().eval(), tiny_batch(8)
    batch = replace(batch, memory=memory_of(method))
    x_adv = method.craft(net, batch, method.attack, cross_entropy)
    start = batch.memory["fgsm_pgi.start"].clone()
    losses = method.losses(net, batch, x_adv, cross_entropy)
    expected = cross_entropy(net(x_adv), batch.y) + 3 * F.mse_loss(net(x_adv), net(start), reduction="none").mean(1)
    assert torch.allclose(losses.total, expected, rtol=1e-4)
    assert not torch.equal(start, x_adv)


def test_the_gradient_goes_through_both_arguments_of_the_distance():
    method, net, batch = method_of(weight=1.0), tiny_net().eval(), tiny_batch(8)
    batch = replace(batch, memory=memory_of(method))
    x_adv = method.craft(net, batch, method.attack, cross_entropy)
    distance = method.losses(net, batch, x_adv, cross_entropy).parts["prior_distance"].sum()
    start = batch.memory["fgsm_pgi.start"]
    weight = net.net[-1].weight
    (ours,) = torch.autograd.grad(distance, weight)
    (both,) = torch.autograd.grad((net(x_adv) - net(start)).square().mean(1).sum(), weight)
    assert torch.allclose(ours, both, rtol=1e-3, atol=1e-5)


def test_a_ramp_of_epsilon_and_radii_scale_the_prior(fabric):
    class Radii(Balance):
        def radii(self, batch):
            return torch.linspace(0, 1, len(batch.x))

    for regime, balance, reach in (
        (Regime(epsilon=Ramp(until=1)), Balance(), torch.full((8,), EPSILON / 2)),
        (Regime(), Radii(), EPSILON * torch.linspace(0, 1, 8)),
    ):
        method, net = method_of(), tiny_net().train()
        model, optimizer = fabric.setup(net, SGD().build(net))
        inner = replace(tiny_batch(8), x=torch.full((8, 3, 6, 6), 0.5), memory=memory_of(method))
        for _ in range(2):
            train_step(fabric, model, optimizer, inner, method=method, joints=Joints(balance=balance, regime=regime))
            away = (inner.memory["fgsm_pgi.start"] - 0.5).abs().amax((1, 2, 3))
            assert torch.allclose(away, reach, atol=1e-6)
            assert inner.memory["fgsm_pgi.prior"].isfinite().all()


def test_a_step_makes_one_forward_to_attack_and_one_of_both_halves(fabric):
    net, method = tiny_net().train(), method_of()
    model, optimizer = fabric.setup(net, SGD().build(net))
    read = counting(net)
    batch = replace(tiny_batch(8), memory=memory_of(method))
    train_step(fabric, model, optimizer, batch, method=method, joints=Joints(balance=Balance(), regime=Regime()))
    assert read() == [8, 16]
    assert not net._forward_pre_hooks or len(net._forward_pre_hooks) == 1  # the counter alone
    assert passes(Recipe(method=method)) == {"forwards": 3, "input_backwards": 1, "full_backwards": 2}


def test_what_is_remembered_has_a_row_for_each_image_and_the_size_that_is_told():
    facts = facts_of(torch.zeros(50, dtype=torch.int64), 10, (3, 32, 32), 16, "cpu")
    sizes = {n: t.numel() * t.element_size() for n, t in FGSMPGI().remember(facts).items()}
    assert sizes["fgsm_pgi.prior"] == sizes["fgsm_pgi.momentum"] == 51 * 3072 * 2
    whole = 50_000 * 3072 * 2 * 2 / 1e9
    assert whole == pytest.approx(0.6, abs=0.02)


def test_what_cannot_work_is_refused():
    with pytest.raises(UserError, match="start: got zero; allowed uniform: the prior takes the place"):
        FGSMPGI(attack=FGSM())
    with pytest.raises(UserError, match="threat.kind: got l2; allowed linf"):
        FGSMPGI(attack=FGSM(threat=L2(), start="uniform"))
    pgd = PGD(threat=Linf(epsilon=0.05))
    assert with_attack(method_of(), pgd) == PGDAT(attack=pgd, attack_mode="train")


def test_a_run_stops_and_resumes_exactly(tmp_path):
    """With its memory, flips, BatchNorm, and SWA, which estimates its statistics anew."""
    recipe = load_recipe(
        "digits/pgd_at",
        ["method.kind=fgsm_pgi", *TINY, "epochs=3", "model.name=wrn10_1", "averaging.kind=swa", "optimizer.lr=0.01",
         "augment.flip=true", "data.examples=360", "batch_size=100", "checkpoint.every=1"],
    )  # fmt: skip
    assert_resumes_exactly(recipe, tmp_path)
