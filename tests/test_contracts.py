"""The checks that every line of contracts.py passes."""

import warnings
from dataclasses import replace

import pytest
import torch
import yaml
from torch.nn.functional import one_hot

import contracts
import inure.attacks
import inure.averaging
import inure.balance
import inure.methods
import inure.optimizers
import inure.penalties
import inure.perturbation
import inure.schedules
from contracts import (
    ATTACKS,
    AVERAGINGS,
    CRITERIA,
    METHODS,
    OPTIMIZERS,
    PENALTIES,
    PERTURBATIONS,
    SCHEDULES,
    STEPS,
)
from inure.losses import cross_entropy, margin
from inure.settings import config, trees
from tiny import assert_same_state, counting, noise_of, soft, state_of, tiny_batch, tiny_net

TOLERANCE = 1e-6
"""What float64 attacks may differ by: L2 and L1 move points that are outside by a rounding error a relative 1e-6."""


def named(table):
    """Each line of ``table`` with a short id: its kind and its number."""
    return [pytest.param(line, id=f"{getattr(line, 'kind', None) or line[0].kind}-{i}") for i, line in enumerate(table)]


attacks = pytest.mark.parametrize("line", named(ATTACKS))


def test_every_piece_has_a_line():
    for folder, table in (
        (inure.attacks.ATTACKS, [line.attack for line in ATTACKS]),
        (inure.methods.METHODS, [line.method for line in (*METHODS, *STEPS)]),
        (inure.balance.CRITERIA, CRITERIA),
        (inure.penalties.PENALTIES, [line.penalty for line in PENALTIES]),
        (inure.perturbation.PERTURBATIONS, PERTURBATIONS),
        (inure.averaging.AVERAGINGS, AVERAGINGS),
        (inure.optimizers.OPTIMIZERS, OPTIMIZERS),
    ):
        assert {type(piece) for piece in table} == set(folder)
    kinds = {member for member in vars(inure.schedules).values() if "kind" in getattr(member, "model_fields", {})}
    assert {type(piece) for piece in SCHEDULES} == kinds


def pieces():
    tables = (CRITERIA, PERTURBATIONS, AVERAGINGS, OPTIMIZERS, SCHEDULES)
    return [
        *(line.attack for line in ATTACKS),
        *(line.method for line in (*METHODS, *STEPS)),
        *(line.penalty for line in PENALTIES),
        *(p for t in tables for p in t),
    ]


@pytest.mark.parametrize("piece", named(pieces()))
def test_a_piece_survives_yaml_and_is_frozen_and_comparable(piece):
    tree = yaml.safe_load(trees.to_yaml(config.dump(piece)))
    assert config.build(type(piece), tree) == piece
    assert tree["kind"] == piece.kind
    with pytest.raises(ValueError, match="frozen"):
        piece.kind = "other"


# Attacks


def batch_for(line, net, size=8):
    """Random images; with labels that the net gets right for an attack that stops once they are wrong."""
    batch = tiny_batch(size)
    with torch.no_grad():
        return replace(batch, y=net(batch.x).argmax(1)) if line.stops else batch


def run(line, net, batch, **options):
    return line.attack(net, batch.x, batch.y, noise=noise_of(batch), **options)


@attacks
@pytest.mark.parametrize("loss", [cross_entropy, margin])
def test_an_attack_stays_in_ball_and_box_and_keeps_shape_and_precision(line, loss):
    net = tiny_net().eval()
    batch = batch_for(line, net, 16)
    for x, precise in ((batch.x, net), (batch.x.double(), tiny_net().eval().double())):
        x_adv = line.attack(precise, x, batch.y, loss=loss, noise=noise_of(batch))
        assert x_adv.shape == x.shape
        assert x_adv.dtype == x.dtype
        assert not x_adv.requires_grad
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
        reach = line.reach or line.attack.threat
        distance = reach.distance(x_adv.double(), x.double())
        assert (distance <= reach.epsilon + 1e-6).all()
        assert (distance > 0).all()


@attacks
def test_an_attack_raises_the_loss(line):
    net = tiny_net().eval()
    batch = batch_for(line, net, 64)
    with torch.no_grad():
        clean = cross_entropy(net(batch.x), batch.y)
        attacked = cross_entropy(net(run(line, net, batch)), batch.y)
    assert (attacked > clean).float().mean() > 0.95


@attacks
@pytest.mark.parametrize("breaks", [False, True])
def test_an_attack_leaves_the_net_as_it_found_it_even_if_the_net_raises(line, breaks):
    net, batch = tiny_net().eval(), tiny_batch()
    net.net[0].weight.requires_grad_(False)
    net.net[3].train()  # a flag of its own
    net.net[4].weight.grad = torch.randn(8)
    before, grad_enabled = state_of(net), torch.is_grad_enabled()
    if breaks and line.forwards:
        net.net[-1].register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
        with pytest.raises(RuntimeError, match="out of memory"):
            run(line, net, batch)
    else:
        run(line, net, batch)
    assert_same_state(before, state_of(net))
    assert torch.is_grad_enabled() == grad_enabled
    assert not batch.x.requires_grad


@attacks
def test_an_attack_gives_the_same_result_for_the_same_seed_and_does_not_change_its_input(line):
    net, batch = tiny_net().eval(), tiny_batch()
    x = batch.x.clone()
    first = run(line, net, batch)
    assert torch.equal(run(line, net, batch), first)
    assert torch.equal(batch.x, x)
    torch.manual_seed(3)
    generated = line.attack(net, batch.x, batch.y)
    torch.manual_seed(3)
    assert torch.equal(line.attack(net, batch.x, batch.y), generated)


@attacks
def test_an_attack_with_counted_noise_treats_every_example_alone(line):
    if not line.alone:
        return
    net, batch, order = tiny_net().eval().double(), tiny_batch(12), torch.randperm(12)
    x = batch.x.double()
    whole = line.attack(net, x, batch.y, noise=noise_of(batch))
    some = replace(batch, index=batch.index[order[:5]])
    part = line.attack(net, x[order[:5]], batch.y[order[:5]], noise=noise_of(some))
    assert torch.allclose(part, whole[order[:5]], rtol=0, atol=TOLERANCE)


@attacks
def test_an_attack_with_epsilon_zero_returns_the_images(line):
    net, batch = tiny_net().eval(), tiny_batch()
    nothing = line.attack.model_copy(update={"threat": line.attack.threat.with_epsilon(0.0)})
    assert torch.equal(nothing(net, batch.x, batch.y), batch.x)


@attacks
def test_an_attack_takes_radii_per_example(line):
    net, batch = tiny_net().eval().double(), batch_for(line, tiny_net().eval())
    x, radii = batch.x.double(), torch.linspace(0, float(line.attack.threat.epsilon), 8, dtype=torch.float64)

    def attack(radius, rows):
        resized = line.attack.model_copy(update={"threat": line.attack.threat.with_epsilon(radius)})
        return resized(net, x[rows], batch.y[rows], noise=noise_of(replace(batch, index=batch.index[rows])))

    together = attack(radii, slice(None))
    if line.alone:
        alone = torch.cat([attack(float(radii[i]), slice(i, i + 1)) for i in range(8)])
        assert torch.allclose(together, alone, rtol=0, atol=TOLERANCE)
    assert torch.equal(together[0], x[0])
    assert (line.attack.threat.distance(together, x)[1:] > 0).all()


@attacks
def test_an_attack_takes_soft_labels(line):
    net, batch = tiny_net().eval().double(), batch_for(line, tiny_net().eval())
    x, noise = batch.x.double(), lambda: noise_of(batch)
    hard = line.attack(net, x, batch.y, noise=noise())
    one_hots = line.attack(net, x, one_hot(batch.y, 4).double(), noise=noise())
    assert torch.allclose(one_hots, hard, rtol=0, atol=TOLERANCE)
    mixed = line.attack(net, x, soft(batch.y).double(), noise=noise())
    with torch.no_grad():
        gain = cross_entropy(net(mixed), soft(batch.y).double()) - cross_entropy(net(x), soft(batch.y).double())
    assert gain.mean() > 0


@attacks
def test_an_attack_makes_the_forwards_of_its_line(line):
    net = tiny_net().eval()
    batch = batch_for(line, net)
    read = counting(net)
    run(line, net, batch)
    sizes = read()
    if line.stops:  # who falls leaves
        assert sizes == sorted(sizes, reverse=True) or line.attack.kind in ("targeted", "fab", "ddn")
        assert len(sizes) <= line.forwards
        assert sum(sizes) <= len(batch.x) * line.forwards
    else:
        assert sizes == [len(batch.x)] * line.forwards


# Optimizers, averages


@pytest.mark.parametrize("settings", named(OPTIMIZERS))
def test_an_optimizer_holds_every_trainable_parameter_once_and_lowers_a_loss(settings):
    net, batch = tiny_net(), tiny_batch()
    net.net[0].weight.requires_grad_(False)
    optimizer = settings.build(net)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in net.parameters() if p.requires_grad}
    losses = []
    for _ in range(20):
        loss = cross_entropy(net(batch.x), batch.y).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("settings", named(AVERAGINGS))
def test_an_average_of_a_net_that_stands_still_is_that_net(settings):
    net = tiny_net()
    averager = settings.build(net)
    for step in range(10):
        averager.update(net, step / 10)
    module = averager.module
    assert module is not net
    assert not module.training
    for name, value in net.state_dict().items():
        assert torch.allclose(module.state_dict()[name], value, rtol=1e-6, atol=0), name


def test_the_tables_are_not_empty():
    tables = "ATTACKS METHODS STEPS PENALTIES CRITERIA PERTURBATIONS AVERAGINGS OPTIMIZERS SCHEDULES"
    for name in tables.split():
        assert getattr(contracts, name)


# The house rule on warnings


def test_warnings_raised_from_inure_are_errors_and_those_of_others_are_not():
    with pytest.raises(UserWarning, match="ours"):
        warnings.warn_explicit("ours", UserWarning, "threat.py", 1, module="inure.threat")
    with warnings.catch_warnings(record=True) as caught:
        warnings.warn_explicit("theirs", UserWarning, "other.py", 1, module="other.inure")
    assert [str(w.message) for w in caught] == ["theirs"]
