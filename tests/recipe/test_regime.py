"""Phases of a regime: what trains when, bit for bit, and what it saves."""

import importlib
import signal
from functools import partial

import pytest
import torch

from faults import signal_at_step
from inure.attacks import FGSM, PGD
from inure.balance import Balance
from inure.methods import MART, PGDAT, TRADES, Standard
from inure.optimizers import SGD
from inure.recipe.recipe import Recipe, load_recipe
from inure.recipe.regime import Below, Phase, Regime
from inure.schedules import Ramp
from inure.settings.errors import UserError
from inure.steps import Joints
from inure.threat import Linf
from inure.training.passes import passes, saved
from inure.training.snapshot import Progress
from inure.training.step import step_of
from inure.training.train import train as train_run
from processes import TINY, TINY_ATTACK, assert_same_run, info, inure, records
from tiny import assert_same_state, counting, state_of, tiny_batch, tiny_net

ATTACK = PGD(threat=Linf(epsilon=0.05), steps=4, start="gaussian")
METHODS = [PGDAT(attack=ATTACK), TRADES(attack=ATTACK), MART(attack=ATTACK)]
LADDER = Regime(phases=[Phase(until=0.25), Phase(until=0.5, attack=FGSM(start="uniform"))])
methods = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.kind)


def train(fabric, method, regime, progresses=(0.0, 0.5)):
    """The net after one step at each progress, from the same start, as ``train`` makes them."""
    torch.manual_seed(0)
    net = tiny_net().train()
    model, optimizer = fabric.setup(net, SGD(lr=0.05).build(net))
    for seed, progress in enumerate(progresses):
        acting = regime.method(method, regime.phase(progress))
        batch = tiny_batch(seed=seed, progress=progress)
        step_of(acting)(fabric, model, optimizer, batch, method=acting, joints=Joints(balance=Balance(), regime=regime))
    return net


@methods
def test_a_switch_at_the_beginning_is_the_method_and_one_at_the_end_standard_training_bit_for_bit(fabric, method):
    for until, alone in ((0.0, method), (1.0, Standard())):
        phased = train(fabric, method, Regime(phases=[Phase(until=until)]))
        assert_same_state(state_of(phased), state_of(train(fabric, alone, Regime())))


@methods
def test_a_phase_takes_the_threat_of_the_method_and_its_own_attack(method):
    acting = [LADDER.method(method, LADDER.phase(progress)) for progress in (0.0, 0.24, 0.25, 0.49, 0.5, 0.9)]
    assert [m.kind for m in acting] == ["standard"] * 2 + [method.kind] * 4
    assert acting[2] == acting[3] != method
    assert acting[2].attack == FGSM(start="uniform", threat=method.attack.threat)
    assert acting[4] is acting[5] is method


def test_a_phase_that_is_over_does_not_come_back():
    assert LADDER.phase(0.1, least=2) == 2
    assert LADDER.phase(0.3, least=0) == 1


def test_a_clean_phase_makes_one_forward(fabric):
    net = tiny_net().train()
    model, optimizer = fabric.setup(net, SGD().build(net))
    read = counting(net)
    acting = LADDER.method(METHODS[1], 0)
    step_of(acting)(
        fabric, model, optimizer, tiny_batch(progress=0), method=acting, joints=Joints(balance=Balance(), regime=LADDER)
    )
    assert read() == [8]


def test_what_is_saved_follows_the_cost_model():
    """Clean 1, FGSM 2, PGD-K K + 1 forwards; E_switch K / (E (K + 1)) for one clean phase (Li et al.)."""
    recipe = Recipe(method=PGDAT(attack=PGD(steps=10)), regime=Regime(phases=[Phase(until=0.25)]))
    assert passes(recipe)["forwards"] == 11
    found = saved(recipe, {"0": 50, "1": 150})
    assert found["saved"] == pytest.approx(50 * 10 / (200 * 11))
    assert (found["pairs"], found["without"]) == (50 + 150 * 11, 200 * 11)
    ladder = Recipe(method=PGDAT(attack=PGD(steps=10)), regime=LADDER)
    assert saved(ladder, {"0": 1, "1": 1, "2": 2})["pairs"] == 1 + 2 + 22


def test_a_phase_ends_early_when_what_it_waits_for_is_small_often_enough_in_a_row():
    regime = Regime(phases=[Phase(until=0.5, below=Below(measure="kernel_distance", value=0.01, times=2))])
    state, ended = Progress(), []
    for value in (0.5, 0.009, 0.02, 0.009, 0.001, 0.5, 0.001, 0.001):
        ended.append(state.end_epoch(regime, {"kernel_distance": value}))
    assert ended == [False] * 4 + [True] + [False] * 3
    assert (state.phase, state.below) == (1, 0)
    assert not Progress().end_epoch(regime, {"other": 0.0})
    recovering, low = Progress(recovery=1), {"kernel_distance": 0.0}
    assert not recovering.end_epoch(regime, low)
    assert (recovering.recovery, recovering.below) == (0, 0), "a net of PGD says nothing of the phase"
    assert not Progress().end_epoch(Regime(phases=[Phase(until=0.5)]), {"kernel_distance": 0.0})


def test_phases_out_of_order_or_without_an_attack_are_refused():
    with pytest.raises(UserError, match=r"phases: got ends \[0.5, 0.25\]; allowed shares of training in rising order"):
        Regime(phases=[Phase(until=0.5), Phase(until=0.25)])
    with pytest.raises(UserError, match="regime.phases: got phases; allowed .*: method standard does not attack"):
        Recipe(regime=LADDER)


def test_a_run_with_phases_tells_what_they_saved_and_resumes_exactly(tmp_path):
    phases = "regime.phases=[{until: 0.5}, {until: 0.75, attack: {kind: fgsm}}]"
    recipe = ("digits/pgd_at", *TINY_ATTACK, phases)
    whole = inure("train", *recipe, "--out", "whole", folder=tmp_path)
    assert whole.code == 0, whole.err
    cost = info(tmp_path / "whole")["phases"]
    steps = records(tmp_path / "whole")[-1]["step"]
    assert cost["without"] == 3 * steps
    assert cost["saved"] == pytest.approx((0.5 * 2 + 0.25) / 3, abs=0.02)
    first = inure("train", *recipe, "--out", "cut", "--max-minutes", "0", folder=tmp_path)
    assert first.code != 1
    again = inure("train", *recipe, "--out", "cut", "--resume", folder=tmp_path)
    assert again.code == 0, again.err
    assert info(tmp_path / "cut")["phases"] == cost
    assert f"{100 * cost['saved']:.1f} % saved" in whole.err
    said = [(r["step"], r["trains"]) for r in records(tmp_path / "whole", "phase")]
    assert said == [(1, "standard"), (23, "pgd_at with fgsm"), (34, "pgd_at with pgd")]
    assert records(tmp_path / "cut", "phase") == records(tmp_path / "whole", "phase")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize(
    "settings", [("method.kind=trades",), ("method.kind=mart",), ("penalties=[{kind: grad_align}]",)]
)
def test_methods_with_other_parts_follow_a_clean_phase_in_the_middle_of_an_epoch(tmp_path, settings):
    recipe = ("digits/pgd_at", *settings, *TINY_ATTACK, "epochs=1", "regime.phases=[{until: 0.5}]")
    ended = inure("train", *recipe, "--out", "run", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert len(records(tmp_path / "run")) == 1


def test_an_attack_of_a_phase_that_cannot_act_in_the_threat_is_refused():
    l2 = "method.attack.threat={kind: l2, epsilon: 0.5}"
    for kind in ("n_fgsm", "zero_grad", "multi_grad", "noisy_fgsm"):
        phase = f"regime.phases=[{{until: 0.3}}, {{until: 0.5, attack: {{kind: {kind}}}}}]"
        with pytest.raises(UserError, match=r"regime.phases\[1\].attack.threat.kind: got l2; allowed linf"):
            load_recipe("digits/pgd_at", [l2, phase])
    own = "regime.phases=[{until: 0.3, attack: {kind: fgsm, threat: {kind: linf, epsilon: 0.01}}}]"
    with pytest.raises(UserError, match=r"regime.phases\[0\].attack.threat: got linf:0.01; allowed nothing"):
        load_recipe("digits/pgd_at", [own])
    fgsm = load_recipe("digits/pgd_at", [l2, "regime.phases=[{until: 0.3, attack: {kind: fgsm}}]"])
    assert fgsm.regime.method(fgsm.method, 0).attack.threat == fgsm.method.attack.threat


def test_radii_by_class_and_progress_scale_epsilon_and_step_size_together():
    regime, radii = Regime(epsilon=Ramp(until=0.5)), torch.tensor([1.0, 0.5, 2.0])
    scaled = regime.scale(PGD(threat=Linf(epsilon=0.1), step_size=0.02), 0.25, radii)
    assert torch.allclose(scaled.threat.epsilon, 0.05 * radii)
    assert torch.allclose(scaled.step_size, 0.01 * radii)


@pytest.fixture
def collapsing(monkeypatch):
    """Every validation looks like catastrophic overfitting: its accuracies are made up."""
    ends = importlib.import_module("inure.training.epoch_end")
    real, made_up = ends.accuracies, {"fgsm_accuracy": 0.9, "probe_pgd_accuracy": 0.0}
    monkeypatch.setattr(ends, "accuracies", lambda counts: {**real(counts), **made_up})
    return ends


@pytest.mark.parametrize(
    ("setting", "exempt"),
    [
        ("seed=0", []),
        ("regime.phases=[{until: 0.5}]", ["clean images"] * 2),
        ("regime.phases=[{until: 0.5, attack: {kind: fgsm}}]", []),
        ("regime.epsilon={kind: ramp, until: 0.7}", ["small epsilon"]),
        ("regime.epsilon={kind: ramp, until: 1}", ["small epsilon"] * 2),
    ],
)
def test_the_guard_judges_neither_clean_phases_nor_less_than_half_of_epsilon(tmp_path, collapsing, setting, exempt):
    settings = [*TINY_ATTACK, "regime.epsilon=null", "guards.catastrophic=stop", setting]
    train_run(load_recipe("digits/pgd_at", settings), tmp_path / "run", quiet=True)
    assert [record.get("exempt") for record in records(tmp_path / "run")] == exempt + [None] * 2


def test_measures_of_a_recovery_see_what_trains_in_it(tmp_path, collapsing, monkeypatch):
    """After two bad validations an epoch of PGD; the measure of that epoch is of PGD."""
    seen, probe = [], collapsing.Probe
    monkeypatch.setattr(collapsing, "Probe", lambda *facts: seen.append(facts[3].attack.kind) or probe(*facts))
    settings = ("method.attack.kind=fgsm", *TINY, "regime.epsilon=null", "measures=[{kind: alignment, every: 1}]")
    guard = ("guards.catastrophic=switch", "guards.recovery_epochs=1")
    train_run(load_recipe("digits/pgd_at", [*settings, *guard, "epochs=4"]), tmp_path / "run", quiet=True)
    assert seen == ["fgsm", "fgsm", "pgd", "fgsm"]


def test_epochs_without_a_validation_keep_what_was_measured_and_counted(tmp_path):
    settings = (*TINY_ATTACK, "measures=[{kind: kernel, every: 1, examples: 10}]", "balance.counts=true")
    whole = train_run(load_recipe("digits/pgd_at", [*settings]), tmp_path / "whole", quiet=True)
    run = train_run(load_recipe("digits/pgd_at", [*settings, "checkpoint.every=3"]), tmp_path / "run", quiet=True)
    noted, validated = records(run, "noted"), records(run)
    assert [[record["epoch"] for record in found] for found in (noted, validated)] == [[1, 2], [3, 4]]
    for found, expected in zip([*noted, *validated], records(whole), strict=True):
        for name in ("step", "measures", "adversarial_predictions"):
            assert found[name] == expected[name], name


def test_a_run_that_is_resumed_twice_at_the_end_of_an_epoch_has_each_record_once(tmp_path):
    """Stopped at the last step of an epoch, which is not validated; killed before the next checkpoint."""
    recipe = ("digits/pgd_at", *TINY_ATTACK, "balance.counts=true", "checkpoint.every=2")
    line = ("train", *recipe, "--out", "cut")
    assert inure("train", *recipe, "--out", "whole", folder=tmp_path).code == 0
    stop = partial(signal_at_step, 11, signal.SIGTERM)
    assert inure(*line, folder=tmp_path, prepare=stop).code == 143
    assert info(tmp_path / "cut")["epochs_done"] == 0
    kill = partial(signal_at_step, 15, signal.SIGKILL)
    assert inure(*line, "--resume", folder=tmp_path, prepare=kill).code == -9
    assert inure(*line, "--resume", folder=tmp_path).code == 0
    for event, epochs in (("noted", [1, 3]), ("epoch", [2, 4])):
        found = records(tmp_path / "cut", event)
        assert [record["epoch"] for record in found] == epochs
    assert records(tmp_path / "cut", "noted") == records(tmp_path / "whole", "noted")
    assert_same_run(tmp_path / "cut", tmp_path / "whole")
