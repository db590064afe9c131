"""Free adversarial training: against a slow version, what passes from minibatch to minibatch, and its price."""

import re
from dataclasses import replace

import pytest
import torch

from inure.attacks import FGSM, PGD
from inure.averaging import EMA
from inure.balance import Balance, CrossEntropy
from inure.commands import main
from inure.losses import cross_entropy
from inure.memory import read_slots, write_slots
from inure.methods import PGDAT, Free
from inure.optimizers import SGD
from inure.perturbation import AWP
from inure.recipe.recipe import Recipe, load_recipe
from inure.recipe.regime import Regime, with_attack
from inure.schedules import Ramp
from inure.settings.errors import UserError
from inure.steps import Joints
from inure.steps.free import DELTA, free_step
from inure.threat import L2, Linf
from inure.training.passes import passes
from inure.training.step import step_of
from inure.types import Batch
from processes import TINY, assert_resumes_exactly, in_two_processes
from tiny import assert_same_state, counting, memory_of, state_of, tiny_batch, tiny_net

METHOD = Free(attack=FGSM(threat=Linf(epsilon=0.05)), replays=3)
PLAIN = SGD(lr=0.05, momentum=0.9, weight_decay=1e-3)


def stepped(fabric, batches, method=METHOD, net=None, **joints):
    """(net, memory, logs) after a step on each batch."""
    net = (net or tiny_net()).train()
    model, optimizer = fabric.setup(net, PLAIN.build(net))
    joints = {"balance": Balance(), "regime": Regime(), **joints}
    memory = memory_of(method)
    logs = [
        free_step(fabric, model, optimizer, replace(b, memory=memory), method=method, joints=Joints(**joints))
        for b in batches
    ]
    return net, memory, logs


def slowly(net, batches, method, epsilon=0.05, clip_norm=None):
    """The algorithm of the paper, written out; (the delta of 8 places, losses)."""
    optimizer = PLAIN.build(net.train())
    delta, losses = torch.zeros(8, 3, 6, 6), []
    for batch in batches:
        count = len(batch.x)
        for _ in range(method.replays):
            moved = batch.x + delta[:count]
            now = torch.where(moved < 0, 0.0, torch.where(moved > 1, 1.0, moved)).requires_grad_()
            loss = cross_entropy(net(now), batch.y).mean()
            (grad,) = torch.autograd.grad(loss, now, retain_graph=True)
            grad[(moved < 0) | (moved > 1)] = 0
            gradients = torch.autograd.grad(loss, list(net.parameters()))
            for p, g in zip(net.parameters(), gradients, strict=True):
                p.grad = g
            if clip_norm:
                torch.nn.utils.clip_grad_norm_(net.parameters(), clip_norm)
            optimizer.step()
            delta[:count] = torch.clamp(delta[:count] + epsilon * torch.sign(grad), -epsilon, epsilon)
            losses.append(loss.item())
    return delta, losses


def test_it_is_the_algorithm_of_the_paper_step_by_step(fabric):
    batches = [tiny_batch(8, seed=0), tiny_batch(5, seed=1), tiny_batch(8, seed=2)]
    slow = tiny_net()
    delta, losses = slowly(slow, batches, METHOD, clip_norm=0.5)
    net, memory, logs = stepped(fabric, batches, clip_norm=0.5)
    assert torch.equal(memory[DELTA], delta)
    for p, q in zip(net.parameters(), slow.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-5, atol=1e-7)
    means = [sum(losses[i : i + 3]) / 3 for i in (0, 3, 6)]
    assert [log["loss"].item() for log in logs] == pytest.approx(means, rel=1e-5)


def test_a_short_minibatch_leaves_the_perturbation_of_the_other_places(fabric):
    _, before, _ = stepped(fabric, [tiny_batch(8)])
    _, after, _ = stepped(fabric, [tiny_batch(8), tiny_batch(5, seed=1)])
    assert torch.equal(before[DELTA][5:], after[DELTA][5:])
    assert not torch.equal(before[DELTA][:5], after[DELTA][:5])


def test_a_replay_trains_on_the_perturbation_of_the_one_before_so_the_first_is_standard_training(fabric):
    """With m = 1 a minibatch is trained on with the perturbation of the minibatch before."""
    once = Free(attack=FGSM(threat=Linf(epsilon=0.05)), replays=1)
    first, second = tiny_batch(8, seed=0), tiny_batch(8, seed=1)
    net, _, (a, b) = stepped(fabric, [first, second], once)
    slow = tiny_net().train()
    optimizer = PLAIN.build(slow)
    x = first.x.clone().requires_grad_()
    loss = cross_entropy(slow(x), first.y).mean()
    loss.backward()
    optimizer.step()
    assert a["loss"].item() == pytest.approx(loss.item(), rel=1e-6)
    assert x.grad is not None
    optimizer.zero_grad()
    loss = cross_entropy(slow((second.x + 0.05 * x.grad.sign()).clamp(0, 1)), second.y).mean()
    loss.backward()
    optimizer.step()
    assert b["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    for p, q in zip(net.parameters(), slow.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-5, atol=1e-7)


def test_it_costs_m_pairs_and_no_other_pass(fabric):
    net = tiny_net()
    read = counting(net)
    stepped(fabric, [tiny_batch(8)], net=net)
    assert read() == [8, 8, 8]
    assert passes(Recipe(method=Free(replays=8))) == {"forwards": 8, "input_backwards": 0, "full_backwards": 8}


def test_the_pixels_at_the_border_of_the_box_stay_in_it_and_the_perturbation_in_the_ball(fabric):
    seen = []
    net = tiny_net()
    net.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))
    batches = [tiny_batch(8, seed=s) for s in range(3)]
    _, memory, _ = stepped(fabric, batches, net=net)
    assert memory[DELTA].abs().max() <= 0.05
    for x, found in zip([b for b in batches for _ in range(3)], seen, strict=True):
        assert found.min() >= 0
        assert found.max() <= 1
        assert (found - x.x).abs().max() <= 0.05 + 1e-6


def test_epsilon_zero_is_standard_training_with_every_batch_m_times(fabric):
    still = Free(attack=FGSM(threat=Linf(epsilon=0)), replays=2)
    net, memory, _ = stepped(fabric, [tiny_batch(8)], still)
    slow, batch = tiny_net(), tiny_batch(8)
    slowly(slow, [batch], still, epsilon=0)
    assert not memory[DELTA].any()
    for p, q in zip(net.parameters(), slow.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-5, atol=1e-7)


def test_the_regime_scales_the_radius_and_the_average_hears_of_every_replay(fabric):
    averager = EMA().build(tiny_net())
    regime = Regime(epsilon=Ramp(until=1))
    _, memory, _ = stepped(fabric, [tiny_batch(8, progress=0.5)], regime=regime, averager=averager)
    assert memory[DELTA].abs().max() == pytest.approx(0.025)
    assert averager.updates == 3


def test_radii_per_image_bound_each_perturbation(fabric):
    class Radii(Balance):
        def radii(self, batch):
            return torch.linspace(0, 1, len(batch.x))

    _, memory, _ = stepped(fabric, [tiny_batch(8)], balance=Radii())
    assert torch.allclose(memory[DELTA].abs().amax((1, 2, 3)), 0.05 * torch.linspace(0, 1, 8))


def test_what_bn_statistics_are_estimated_from_are_the_images_that_the_next_replay_would_see(fabric):
    net, memory, _ = stepped(fabric, [tiny_batch(8)])
    batch = replace(tiny_batch(8, seed=3), memory=memory)
    before = state_of(net)
    x_adv = METHOD.craft(net, batch, METHOD.attack, cross_entropy)
    assert_same_state(before, state_of(net))
    assert torch.allclose(x_adv, (batch.x + memory[DELTA]).clamp(0, 1), atol=1e-7)


def test_what_cannot_work_is_refused():
    with pytest.raises(UserError, match="perturbation: got awp; allowed null: the step of method free"):
        Recipe(method=Free(), perturbation=AWP())
    with pytest.raises(UserError, match=r"crafting: got attention_dropping; allowed null"):
        load_recipe("digits/pgd_at", ["method.kind=free", "crafting=attention_dropping"])
    with pytest.raises(UserError, match="balance.attack: got cross_entropy with label_smoothing=0.1"):
        Recipe(method=Free(), balance=Balance(attack=CrossEntropy(label_smoothing=0.1)))
    with pytest.raises(UserError, match=r"allowed zero: free training starts from the last"):
        Recipe(method={"kind": "free", "attack": {"kind": "fgsm", "start": "uniform"}})
    with pytest.raises(UserError, match="threat.kind: got l2; allowed linf"):
        Free(attack=FGSM(threat=L2()))
    assert step_of(METHOD) is free_step


def test_with_another_attack_it_is_pgd_at_in_train_mode():
    pgd = PGD(threat=Linf(epsilon=0.05))
    assert with_attack(METHOD, pgd) == PGDAT(attack=pgd, attack_mode="train")


def test_places_are_read_and_written_in_order_and_a_longer_batch_wraps():
    memory = torch.zeros(4, 1)
    write_slots(memory, torch.tensor([[1.0], [2.0]]))
    assert memory.flatten().tolist() == [1, 2, 0, 0]
    write_slots(memory, torch.arange(6.0)[:, None])
    assert memory.flatten().tolist() == [0, 1, 2, 3]
    assert read_slots(memory, 6).flatten().tolist() == [0, 1, 2, 3, 0, 1]


RECIPE = ("method.kind=free", "method.replays=3", *TINY, "epochs=2", "batch_size=130", "checkpoint.every=2")


def test_a_run_stops_and_resumes_exactly(tmp_path):
    """With a last batch of 123 images, BatchNorm, and SWA, which estimates its statistics anew."""
    overrides = [*RECIPE, "data.examples=527", "data.validation=144", "model.name=wrn10_1", "averaging.kind=swa"]
    recipe = load_recipe("digits/pgd_at", [*overrides, "optimizer.lr=0.01"])
    assert_resumes_exactly(recipe, tmp_path)


def test_a_dry_run_states_its_passes(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["train", "digits/pgd_at", *RECIPE, "--dry-run"])
    assert leaving.value.code in (0, None)
    assert re.search(r"^# full backwards a step: 3 x batch$", capsys.readouterr().out, re.MULTILINE)


# Several processes


def one_of_two(fabric, rank: int) -> dict[str, torch.Tensor]:
    """Two steps of one process on its half of the batches."""
    halves = []
    for whole in (tiny_batch(8, seed=0), tiny_batch(6, seed=1)):
        rows = torch.arange(len(whole.x)).chunk(2)[rank]
        halves.append(Batch(whole.x[rows], whole.y[rows], whole.index[rows], 0.5))
    net, memory, _ = stepped(fabric, halves, net=tiny_net().eval())
    return {"delta": memory[DELTA], **net.state_dict()}


@pytest.mark.distributed
def test_two_processes_hold_the_perturbation_of_all_and_equal_ones(tmp_path):
    first, second = in_two_processes(one_of_two, tmp_path)
    assert torch.equal(first["delta"], second["delta"])
    assert first["delta"].abs().amax((1, 2, 3)).gt(0).all()
    for name, value in first.items():
        if "running" not in name:
            assert torch.equal(value, second[name]), name
