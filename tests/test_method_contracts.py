"""The checks that every method of contracts.py passes; its steps with the joints are in test_joints.py."""

from dataclasses import replace

import pytest
import torch

from contracts import METHODS
from inure.balance import CrossEntropy
from inure.losses import cross_entropy
from inure.types import Batch
from tiny import assert_same_state, counting, memory_of, noise_of, soft, state_of, tiny_batch, tiny_net

methods = pytest.mark.parametrize("line", METHODS, ids=[f"{line.method.kind}-{i}" for i, line in enumerate(METHODS)])


def batch_for(line, size: int = 8) -> Batch:
    """A tiny batch whose images a method with a memory has seen once: what it draws at first is behind it."""
    batch = replace(tiny_batch(size), memory=memory_of(line.method, size))
    if batch.memory:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            line.method.craft(tiny_net(), batch, line.method.attack, cross_entropy)
    return batch


def fresh(batch: Batch) -> Batch:
    """With a memory of its own."""
    return replace(batch, memory={name: value.clone() for name, value in batch.memory.items()})


def crafted(line, net, batch: Batch, criterion=cross_entropy):
    """As ``train_step`` crafts, with noise that depends on the rows alone."""
    attack = getattr(line.method, "attack", None)

    def search(*arguments, **options):
        assert attack is not None
        return attack(*arguments, **{"noise": noise_of(batch), **options})

    return line.method.craft(net, batch, search if attack else None, criterion)


def doubled(batch: Batch) -> Batch:
    y = batch.y.double() if batch.y.is_floating_point() else batch.y
    return replace(batch, x=batch.x.double(), y=y)


@methods
@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_a_method_gives_a_finite_loss_and_parts_for_each_example(line, labels):
    net, batch = tiny_net().train(), batch_for(line)
    batch = replace(batch, y=soft(batch.y)) if labels == "soft" else batch
    losses = line.method.losses(net, batch, crafted(line, net, batch), cross_entropy)
    for value in (losses.total, *losses.parts.values()):
        assert value.shape == (8,)
        assert value.isfinite().all()
        assert value.dtype == torch.float32
    assert losses.total.requires_grad


@methods
def test_crafting_stays_in_the_threat_model_and_leaves_the_net_as_it_was(line):
    net, batch = tiny_net().train(), batch_for(line)
    before = state_of(net)
    x_adv = crafted(line, net, batch)
    after = state_of(net)
    if getattr(line.method, "attack_mode", None) == "train":
        assert before.pop("value net.1.running_mean").ne(after.pop("value net.1.running_mean")).any()
        before = {name: value for name, value in before.items() if "running" not in name and "num_" not in name}
        after = {name: after[name] for name in before}
    assert_same_state(before, after)
    assert not x_adv.requires_grad
    if hasattr(line.method, "attack"):
        distance = line.method.attack.threat.distance(x_adv, batch.x)
        assert (distance <= line.method.attack.threat.epsilon + 1e-6).all()
        assert (distance > 0).all()


@methods
@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_the_gradient_reaches_every_trainable_parameter(line, labels):
    net, batch = tiny_net().eval(), batch_for(line)
    batch = replace(batch, y=soft(batch.y)) if labels == "soft" else batch
    line.method.losses(net, batch, crafted(line, net, batch), cross_entropy).total.mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@methods
def test_the_order_of_the_batch_plays_no_part(line):
    batch, order = doubled(batch_for(line, 12)), torch.randperm(12)
    totals = []
    permuted = replace(batch, x=batch.x[order], y=batch.y[order], index=batch.index[order])
    for b in (fresh(batch), fresh(permuted)):
        net = tiny_net().eval().double()
        totals.append(line.method.losses(net, b, crafted(line, net, b), cross_entropy).total)
    assert torch.allclose(totals[0][order], totals[1], rtol=0, atol=1e-5)


@methods
def test_a_method_makes_the_forwards_of_its_line(line):
    net, batch = tiny_net().train(), batch_for(line)
    read = counting(net)
    x_adv = crafted(line, net, batch)
    assert read() == [8] * line.crafting
    line.method.losses(net, batch, x_adv, cross_entropy)
    assert read() == [8] * line.crafting + [8 * line.outer]


@methods
def test_with_epsilon_zero_a_method_sees_the_images_themselves(line):
    if not hasattr(line.method, "attack"):
        return
    attack = line.method.attack.model_copy(update={"threat": line.method.attack.threat.with_epsilon(0.0)})
    net, batch = tiny_net().eval(), batch_for(line)
    assert torch.equal(line.method.craft(net, batch, attack, cross_entropy), batch.x)


@methods
def test_a_criterion_has_an_effect_unless_the_method_says_that_it_ignores_it(line):
    remembered, smooth = doubled(batch_for(line)), CrossEntropy(label_smoothing=0.5)

    def total(attack=cross_entropy, train=cross_entropy):
        net, batch = tiny_net().eval().double(), fresh(remembered)
        return line.method.losses(net, batch, crafted(line, net, batch, attack), train).total

    for name in ("attack", "train"):
        ignored = name in getattr(line.method, "ignores", ())
        assert torch.equal(total(**{name: smooth}), total()) == ignored, name
