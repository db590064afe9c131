"""The joints of ``train_step``: disabled equals absent bit for bit, and every method takes every joint."""

import itertools
from dataclasses import replace

import pytest
import torch

from contracts import METHODS, STEPS
from inure.attacks import PGD
from inure.averaging import EMA, SWA
from inure.balance import Balance, CrossEntropy
from inure.losses import cross_entropy
from inure.methods import MART, PGDAT, TRADES, Standard
from inure.optimizers import SGD
from inure.perturbation import AWP
from inure.recipe.regime import Regime
from inure.schedules import Piecewise, Ramp
from inure.steps import Joints
from inure.threat import Linf
from inure.training.step import step_of, train_step
from inure.types import Batch
from tiny import assert_same_state, counting, memory_of, soft, state_of, tiny_batch, tiny_net

ATTACK = PGD(threat=Linf(epsilon=0.05), steps=2, start="gaussian")
KINDS = [Standard(), PGDAT(attack=ATTACK), TRADES(attack=ATTACK), MART(attack=ATTACK)]
HALFWAY = Ramp(until=1)
ONE = Ramp(until=0)
methods = pytest.mark.parametrize("method", KINDS, ids=lambda m: m.kind)


class Nothing:
    """A crafting trick that changes nothing, and notes what is asked of it."""

    def __init__(self):
        self.calls = []

    def begin(self, model, progress):
        self.calls.append(("begin", type(model).__name__, progress))

    def step(self, k, x_adv, x):
        self.calls.append(k)
        return x_adv

    def end(self):
        self.calls.append("end")


def train(fabric, method, *, steps=2, seed=0, optimizer=None, averaging=None, make_batch=tiny_batch, **joints):
    """(net, averager, what each step logged) after some steps from the same start."""
    torch.manual_seed(seed)
    optimizer = optimizer or SGD(lr=0.05)
    net = tiny_net().train()
    model, wrapped = fabric.setup(net, optimizer.build(net))
    averager = averaging.build(net) if averaging else None
    joints = {"balance": Balance(), "regime": Regime(), **joints}
    memory = memory_of(method)
    logged = [
        step_of(method)(
            fabric,
            model,
            wrapped,
            replace(make_batch(seed=step), memory=memory),
            method=method,
            joints=Joints(averager=averager, **joints),
        )
        for step in range(steps)
    ]
    return net, averager, logged


@methods
@pytest.mark.parametrize(
    "disabled",
    [
        {"perturbation": None, "crafting": None, "clip_norm": None, "averaging": None},
        {"clip_norm": 1e9},
        {"regime": Regime(epsilon=ONE, steps=ONE)},
        {"perturbation": AWP(gamma=0)},
        {"perturbation": AWP(gamma=0.1, warmup=0.6)},
        {"averaging": EMA(decay=0.9)},
        {"averaging": SWA(start=0)},
        {"crafting": Nothing()},
    ],
    ids=["none", "clip", "regime", "awp-gamma", "awp-warmup", "ema", "swa", "crafting"],
)
def test_a_disabled_joint_equals_an_absent_one_bit_for_bit(fabric, method, disabled):
    plain, _, logged = train(fabric, method)
    net, _, with_joint = train(fabric, method, **disabled)
    assert_same_state(state_of(plain), state_of(net))
    for a, b in zip(logged, with_joint, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


@methods
@pytest.mark.parametrize(
    "enabled",
    [{"clip_norm": 0.01}, {"perturbation": AWP(gamma=0.1)}, {"regime": Regime(epsilon=HALFWAY)}],
    ids=["clip", "awp", "regime"],
)
def test_an_enabled_joint_changes_the_weights(fabric, method, enabled):
    if "regime" in enabled and method.kind == "standard":
        return
    plain, _, _ = train(fabric, method)
    net, _, _ = train(fabric, method, **enabled)
    assert not torch.equal(plain.net[-1].weight, net.net[-1].weight)


@methods
@pytest.mark.parametrize(
    "joints",
    list(itertools.product([None, AWP()], [None, EMA(), SWA(start=0)], [False, True], [None, 1.0])),
    ids=lambda j: "-".join(str(getattr(part, "kind", part)) for part in j),
)
def test_every_method_takes_two_steps_with_every_combination_of_joints(fabric, method, joints):
    perturbation, averaging, ramped, clip_norm = joints
    regime = Regime(epsilon=HALFWAY, steps=HALFWAY) if ramped and method.kind != "standard" else Regime()
    before = tiny_net().net[-1].weight.detach().clone()
    net, averager, logged = train(
        fabric, method, averaging=averaging, perturbation=perturbation, regime=regime, clip_norm=clip_norm
    )
    assert len(logged) == 2
    assert all(value.isfinite().all() and value.ndim == 0 for step in logged for value in step.values())
    assert all(p.isfinite().all() for p in net.parameters())
    assert not torch.equal(net.net[-1].weight, before)
    assert (averager is None) == (averaging is None)
    if averager is not None:
        assert averager.updates == 2
        assert averager.module(tiny_batch().x).isfinite().all()


EVERY = [*METHODS, *STEPS]


@pytest.mark.parametrize("line", EVERY, ids=[f"{line.method.kind}-{i}" for i, line in enumerate(EVERY)])
@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_the_loss_on_one_batch_falls_in_twenty_steps(fabric, line, labels):
    batch = tiny_batch()
    batch = Batch(batch.x, soft(batch.y), batch.index, 0.5) if labels == "soft" else batch
    _, _, logged = train(fabric, line.method, steps=20, make_batch=lambda seed: batch)
    losses = torch.stack([step["loss"] for step in logged])
    # What soft labels cannot go below is their own entropy, about 0.4
    assert losses[-3:].mean() < 0.6 * losses[:3].mean()


@pytest.mark.parametrize("line", METHODS, ids=[f"{line.method.kind}-{i}" for i, line in enumerate(METHODS)])
@pytest.mark.parametrize("perturbed", [False, True])
def test_a_step_makes_the_passes_it_states_and_one_more_pair_with_awp(fabric, line, perturbed):
    net = tiny_net().train()
    model, optimizer = fabric.setup(net, SGD().build(net))
    read = counting(net)
    perturbation = AWP() if perturbed else None
    train_step(
        fabric,
        model,
        optimizer,
        replace(tiny_batch(), memory=memory_of(line.method)),
        method=line.method,
        joints=Joints(balance=Balance(), regime=Regime(), perturbation=perturbation),
    )
    assert read() == [8] * line.crafting + [8 * line.outer] * (1 + perturbed)


@pytest.mark.parametrize("line", STEPS, ids=[f"{line.method.kind}-{i}" for i, line in enumerate(STEPS)])
def test_a_step_of_its_own_makes_the_forwards_of_its_line(fabric, line):
    net = tiny_net().train()
    model, optimizer = fabric.setup(net, SGD().build(net))
    read = counting(net)
    batch = replace(tiny_batch(), memory=memory_of(line.method))
    step_of(line.method)(
        fabric, model, optimizer, batch, method=line.method, joints=Joints(balance=Balance(), regime=Regime())
    )
    assert read() == line.forwards


def test_one_step_of_pgd_at_is_the_textbook_step(fabric):
    """Attack in eval mode, then plain SGD on the criterion at what it found, in train mode."""
    attack = PGD(threat=Linf(epsilon=0.05), steps=3, start="zero")
    net, averager, (logged,) = train(
        fabric, PGDAT(attack=attack), steps=1, optimizer=SGD(lr=0.1, momentum=0, weight_decay=0),
        balance=Balance(train=CrossEntropy(label_smoothing=0.1)), averaging=EMA(),
    )  # fmt: skip
    slow, batch = tiny_net(), tiny_batch()
    x_adv = attack(slow.eval(), batch.x, batch.y)
    loss = cross_entropy(slow.train()(x_adv), batch.y, 0.1).mean()
    gradients = torch.autograd.grad(loss, list(slow.parameters()))
    with torch.no_grad():
        for p, gradient in zip(slow.parameters(), gradients, strict=True):
            p.sub_(0.1 * gradient)
    for p, q in zip(net.parameters(), slow.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-5, atol=1e-7)
    for b, c in zip(net.buffers(), slow.buffers(), strict=True):
        assert torch.allclose(b, c)
    assert logged["loss"].item() == pytest.approx(loss.item(), rel=1e-6)
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    assert logged["grad_norm"].item() == pytest.approx(norm.item(), rel=1e-5)
    assert all(torch.equal(p, q) for p, q in zip(averager.module.parameters(), net.parameters(), strict=True))


def test_clipping_scales_the_step_to_the_norm_and_logs_the_norm_before_it(fabric):
    plain = SGD(lr=1, momentum=0, weight_decay=0)
    net, _, (logged,) = train(fabric, Standard(), steps=1, optimizer=plain, clip_norm=0.01)
    _, _, (unclipped,) = train(fabric, Standard(), steps=1, optimizer=plain)
    moved = torch.cat([(p - q).flatten() for p, q in zip(net.parameters(), tiny_net().parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)
    assert torch.equal(logged["grad_norm"], unclipped["grad_norm"])
    assert logged["grad_norm"] > 0.1


def test_awp_starts_when_its_warm_up_is_over(fabric):
    late = AWP(gamma=0.1, warmup=0.5)
    for progress, starts in ((0.49, False), (0.5, True), (0.9, True)):
        options = {"make_batch": lambda seed, p=progress: tiny_batch(seed=seed, progress=p)}
        net, _, _ = train(fabric, TRADES(attack=ATTACK), perturbation=late, **options)
        plain, _, _ = train(fabric, TRADES(attack=ATTACK), **options)
        assert torch.equal(net.net[-1].weight, plain.net[-1].weight) != starts


def test_the_regime_reaches_the_attack(fabric):
    seen = []

    class Spying(PGD):
        def __call__(self, model, x, y, **options):
            seen.append((self.threat.epsilon, self.step_size, self.steps))
            return x

    class Spy(PGDAT):
        attack: Spying = Spying(threat=Linf(epsilon=0.4), steps=10, step_size=0.1)

    regime = Regime(epsilon=HALFWAY, steps=Piecewise(milestones=[0.5], factor=0.5))
    for progress in (0.0, 0.25, 0.5):
        train(fabric, Spy(), steps=1, regime=regime, make_batch=lambda seed, p=progress: tiny_batch(progress=p))
    assert seen == [(0.0, 0.0, 10), (0.1, 0.025, 10), (0.2, 0.05, 5)]


def test_crafting_opens_before_the_first_gradient_and_closes_after_an_exception(fabric):
    trick = Nothing()
    train(fabric, PGDAT(attack=ATTACK), steps=1, crafting=trick)
    assert trick.calls == [("begin", "Classifier", 0.5), 0, 1, "end"]
    trick = Nothing()
    wrong = tiny_batch(shape=(3, 5, 5))
    with pytest.raises(ValueError, match="images"):
        train(fabric, PGDAT(attack=ATTACK), crafting=trick, make_batch=lambda seed: wrong)
    assert trick.calls == [("begin", "Classifier", 0.5), 0, "end"]


def test_the_two_criteria_go_to_the_attack_and_to_the_update(fabric):
    seen = {}

    class Spy:
        def craft(self, model, batch, attack, criterion):
            seen["attack"] = criterion
            return batch.x

        def losses(self, model, batch, x_adv, criterion):
            seen["train"] = criterion
            return Standard().losses(model, batch, x_adv, criterion)

    balance = Balance(attack=CrossEntropy(label_smoothing=0.2), train=CrossEntropy(label_smoothing=0.1))
    train(fabric, Spy(), steps=1, balance=balance)
    assert seen == {"attack": balance.attack, "train": balance.train}


def test_randomness_comes_from_the_seed_alone(fabric):
    method = PGDAT(attack=PGD(threat=Linf(epsilon=0.05), steps=1))
    nets = [train(fabric, method, seed=seed)[0] for seed in (1, 1, 2)]
    assert_same_state(state_of(nets[0]), state_of(nets[1]))
    assert not torch.equal(nets[0].net[-1].weight, nets[2].net[-1].weight)
