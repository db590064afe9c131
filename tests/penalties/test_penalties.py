"""The joint of penalties: off equals absent, every method takes every one, passes, parts, compiled nets, processes."""

import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from penalised import ATTACK, batch_of, feature_net, memory_of, train

from contracts import METHODS, PENALTIES
from faults import signal_at_step
from inure import memory
from inure.balance import Balance
from inure.methods import PGDAT, TRADES, CoTraining, FastAdvProp, Standard
from inure.optimizers import SGD
from inure.penalties import TAIL, GradAlign, TemporalEnsembling
from inure.perturbation import AWP
from inure.recipe.recipe import Recipe, load_recipe
from inure.recipe.regime import Regime
from inure.schedules import Ramp
from inure.steps import Joints
from inure.training.passes import passes
from inure.training.step import train_step
from processes import TINY_ATTACK, assert_same_run, in_two_processes, inure, records, saved_steps
from tiny import assert_same_state, counting, soft, state_of

ALL = [GradAlign(), TemporalEnsembling(start=0), TAIL()]
methods = pytest.mark.parametrize("line", METHODS, ids=[f"{line.method.kind}-{i}" for i, line in enumerate(METHODS)])
penalties = pytest.mark.parametrize(
    "penalty", PENALTIES, ids=[f"{line.penalty.kind}-{i}" for i, line in enumerate(PENALTIES)]
)


def fits(method, penalty) -> bool:
    return hasattr(method, "attack") or not getattr(penalty, "needs_attack", False)


@methods
@penalties
def test_every_method_takes_two_steps_with_every_penalty(fabric, line, penalty):
    if not fits(line.method, penalty.penalty):
        return
    before = feature_net().net.fc.weight.detach().clone()
    net, logged, _ = train(fabric, line.method, [penalty.penalty])
    for step in logged:
        assert penalty.penalty.kind in step
        assert all(value.isfinite() and value.ndim == 0 for value in step.values())
    assert not torch.equal(net.net.fc.weight, before)
    plain, _, _ = train(fabric, line.method, [])
    assert not torch.equal(net.net.hidden.weight, plain.net.hidden.weight), "it has no effect"


@methods
@pytest.mark.parametrize("perturbed", [False, True])
def test_all_penalties_go_together_with_soft_labels_and_awp(fabric, line, perturbed):
    several = [penalty for penalty in ALL if fits(line.method, penalty)]
    remembered = memory_of(several, line.method)
    batch = batch_of(remembered)
    batches = [replace(batch, y=soft(batch.y))] * 2
    perturbation = AWP() if perturbed else None
    net, logged, _ = train(
        fabric, line.method, several, remembered=remembered, batches=batches, perturbation=perturbation
    )
    assert all(value.isfinite() for step in logged for value in step.values())
    for step in logged:
        parts = sum(step[penalty.kind] for penalty in several)
        assert parts > 0
        assert step["loss"] > parts


@methods
@penalties
def test_without_weight_a_penalty_equals_an_absent_one_bit_for_bit(fabric, line, penalty):
    if not fits(line.method, penalty.penalty):
        return
    off = penalty.penalty.model_copy(update={"weight": 0.0})
    plain, logged, _ = train(fabric, line.method, [])
    drawn = torch.rand(1)
    net, with_it, _ = train(fabric, line.method, [off])
    assert torch.equal(torch.rand(1), drawn)
    assert_same_state(state_of(plain), state_of(net))
    for a, b in zip(logged, with_it, strict=True):
        assert b.pop(off.kind) == 0
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


@methods
@penalties
def test_a_step_makes_the_passes_of_method_and_penalty(fabric, line, penalty):
    if not fits(line.method, penalty.penalty):
        return
    net = feature_net()
    read = counting(net)
    train(fabric, line.method, [penalty.penalty], steps=1, progress=0.9, net=net)
    before, after = [8] * (penalty.before + line.crafting), [8] * penalty.update
    assert read() == [*before, 8 * line.outer, *after]


@pytest.mark.parametrize(
    ("penalty", "forwards", "inputs", "full"),
    [(TemporalEnsembling(), 12, 10, 1), (GradAlign(), 13, 10, 3), (TAIL(), 11, 10, 1)],
)
def test_the_passes_of_a_recipe_count_those_of_its_penalties(penalty, forwards, inputs, full):
    found = passes(Recipe(method=PGDAT(), penalties=[penalty]))
    assert found == {"forwards": forwards, "input_backwards": inputs, "full_backwards": full}


class Radii(Balance):
    """As where classes have radii of their own."""

    def radii(self, batch):
        return 1 + (batch.y % 2).to(batch.x.dtype)


class Spy:
    kind = "spy"

    def __call__(self, outer):
        self.threat = None if outer.attack is None else outer.attack.threat
        return outer.adversarial.new_zeros(len(outer.adversarial))


def test_a_penalty_sees_the_ball_of_the_moment_with_the_radius_of_each_image(fabric):
    net, spy = feature_net().train(), Spy()
    model, optimizer = fabric.setup(net, SGD().build(net))
    batch, regime = batch_of({}, progress=0.5), Regime(epsilon=Ramp(until=1))
    for method, balance in (
        (PGDAT(attack=ATTACK), Balance()),
        (PGDAT(attack=ATTACK), Radii()),
        (Standard(), Balance()),
    ):
        train_step(
            fabric,
            model,
            optimizer,
            batch,
            method=method,
            joints=Joints(balance=balance, penalties=[spy], regime=regime if hasattr(method, "attack") else Regime()),
        )
        if not hasattr(method, "attack"):
            assert spy.threat is None
        else:
            factor = balance.radii(batch)
            radii = torch.as_tensor(0.05 * 0.5 * (1.0 if factor is None else factor))
            assert torch.allclose(torch.as_tensor(spy.threat.epsilon).float(), radii.float())


def test_the_same_penalty_twice_and_one_that_a_step_has_no_place_for_are_refused():
    with pytest.raises(ValueError, match=r"penalties\[1\]: got tail; allowed penalties that differ"):
        Recipe(method=PGDAT(), penalties=[TAIL(), TAIL(weight=2)])
    with pytest.raises(ValueError, match="penalties: got tail; allowed"):
        Recipe(method=FastAdvProp(), penalties=[TAIL()])


@pytest.mark.parametrize("method", [PGDAT(attack=ATTACK), TRADES(attack=ATTACK), CoTraining(attack=ATTACK), Standard()])
def test_a_compiled_net_gives_what_an_eager_one_gives(fabric, method):
    """The hooks that read logits and features are on the wrapper, outside what is compiled."""
    found = []
    for compiled in (False, True):
        net = feature_net()
        if compiled:
            net.compile(backend="eager")
        trained, logged, remembered = train(fabric, method, ALL[1:], net=net)
        found.append((state_of(trained.net), logged, remembered))
    (eager, logged, memory_of_eager), (compiled, theirs, memory_of_compiled) = found
    assert all(torch.allclose(step[n], other[n]) for step, other in zip(logged, theirs, strict=True) for n in step)
    for name in memory_of_eager:
        assert torch.allclose(memory_of_eager[name], memory_of_compiled[name])
    for name, value in eager.items():
        if name.startswith("value"):
            assert torch.allclose(value, compiled[name]), name


# Interrupted runs

RUN = (
    "digits/pgd_at", *TINY_ATTACK, "method.attack.threat.epsilon=0.05", "regime.epsilon=null", "augment.mixup=0.5",
    "perturbation.kind=awp", "penalties=[{kind: temporal_ensembling, start: 0.25, end: 0.5}, {kind: tail}]",
)  # fmt: skip


def test_a_run_that_is_stopped_and_resumed_ends_with_the_same_bits_and_the_same_memory(tmp_path):
    assert inure("train", *RUN, "--out", "whole", folder=tmp_path).code == 0
    prepare = partial(signal_at_step, 25, signal.SIGTERM)
    assert inure("train", *RUN, "--out", "stopped", folder=tmp_path, prepare=prepare).code == 143
    assert saved_steps(tmp_path / "stopped")[0] == 25
    assert inure("train", *RUN, "--out", "stopped", "--resume", folder=tmp_path).code == 0
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")
    memories = [remembered(tmp_path / name) for name in ("whole", "stopped")]
    key = "temporal_ensembling.predictions"
    assert torch.equal(memories[0][key], memories[1][key])
    assert (memories[0][key][:-1].sum(1) > 0).float().mean() > 0.95, "nearly every image came since the start"
    parts = [record["train"]["temporal_ensembling"] for record in records(tmp_path / "whole")]
    assert parts[0] == 0
    assert parts[3] > parts[1] > 0


def remembered(run: Path) -> dict[str, torch.Tensor]:
    from inure.runs.checkpoints import Checkpoints
    from inure.training.snapshot import hash_of

    content, _ = Checkpoints(run / "checkpoints").load(hash_of(load_recipe(str(run / "recipe.yaml"))))
    assert content is not None
    return content["memory"]


# Several processes


def one_of_two(fabric, rank: int) -> dict[str, dict[str, torch.Tensor]]:
    """Steps of one process on its rows; the last two rows of the processes are the same image."""
    method, kept = PGDAT(attack=ATTACK), memory_of(ALL)
    net = feature_net().train()
    model, optimizer = fabric.setup(net, SGD(lr=0.05).build(net))
    for step in range(3):
        torch.manual_seed(10 * step + rank)
        train_step(
            fabric,
            model,
            optimizer,
            part_of(kept, step, rank),
            method=method,
            joints=Joints(balance=Balance(), regime=Regime(), penalties=ALL, perturbation=AWP()),
        )
        if step == 0:
            first = {name: value.clone() for name, value in kept.items()}
    rows = memory.new_rows(4, 1, device="cpu")
    memory.write_rows(rows, torch.tensor([rank, 3]), torch.tensor([[10.0 + rank], [20.0 + rank]]))
    found = {"everywhere": memory.everywhere(torch.tensor([rank])), "rows": rows}
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    return {"memory": kept, "first": first, "found": found, "parameters": parameters}


def part_of(kept, step: int, rank: int):
    whole = batch_of(kept, size=8, seed=step)
    rows = torch.tensor([[0, 1, 2, 7], [3, 4, 5, 7]])[rank]
    return replace(whole, x=whole.x[rows], y=whole.y[rows], index=whole.index[rows])


@pytest.mark.distributed
def test_two_processes_remember_the_same_and_descend_together(tmp_path):
    one, two = in_two_processes(one_of_two, tmp_path)
    for part in ("memory", "parameters", "found"):
        for name, value in one[part].items():
            assert torch.equal(value, two[part][name]), name
    assert one["found"]["everywhere"].tolist() == [0, 1]
    assert one["found"]["rows"][:4].flatten().tolist() == [10, 11, 0, 20], "of a row in both the first is kept"
    # After the first step it holds what one process with all images would
    kept = memory_of(ALL)
    ALL[1].attack_term(feature_net(), batch_of(kept))
    key = "temporal_ensembling.predictions"
    came = [100, 101, 102, 103, 104, 105, 107]
    assert torch.allclose(one["first"][key][came], kept[key][came], atol=1e-6)
    assert one["first"][key][106].abs().sum() == 0
