"""What goes wrong in training is seen, named, and stopped or taken back."""

import importlib
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from faults import diverge_at_step, infinite_weight
from inure.recipe.catastrophic import Collapse
from inure.recipe.recipe import load_recipe
from inure.settings.errors import NonFinite
from inure.training.guards import FiniteGuard, warnings_of
from inure.training.train import train
from processes import TINY, TINY_ATTACK, assert_same_run, info, inure, newest_checkpoint, records

RECIPE = ("digits/trades", *TINY_ATTACK)
STEPS_PER_EPOCH = 11


def tiny(*overrides: str):
    return load_recipe(RECIPE[0], [*RECIPE[1:], *overrides])


def logged(loss: float, part: float = 1.0) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(loss), "part": torch.tensor(part)}


def test_the_first_step_that_was_not_finite_is_remembered_with_its_parts():
    guard = FiniteGuard()
    for step, (loss, part) in enumerate([(1.0, 2.0), (math.inf, 3.0), (math.nan, math.nan)], start=5):
        guard.observe(step, logged(loss, part))
    with pytest.raises(NonFinite) as caught:
        guard.check()
    assert (caught.value.step, caught.value.parts) == (6, {"loss": math.inf, "part": 3.0})
    assert str(caught.value) == "step 6: loss=inf, part=3"


def test_finite_numbers_pass_and_a_reset_forgets():
    guard = FiniteGuard()
    guard.check()
    guard.observe(1, logged(1e30))
    guard.check()
    guard.observe(2, logged(math.nan))
    guard.reset()
    guard.check()
    guard.observe(3, logged(1.0))
    guard.check()


def record(epoch: int = 1, *, progress: float = 0.5, clean: float = 0.9, loss: float = 0.3, fgsm=0.5, pgd=0.4) -> dict:
    validation = {"clean_accuracy": clean, "clean_loss": loss, "fgsm_accuracy": fgsm, "probe_pgd_accuracy": pgd}
    return {"epoch": epoch, "step": epoch, "progress": progress, "validation": validation}


def bent(epoch: int = 1, *, pgd: float = 0.1, alignment: float = 0.3, exempt: str | None = None) -> dict:
    """PGD accuracy fallen together with the linearity of the loss; FGSM accuracy has fallen too."""
    found = record(epoch, fgsm=pgd + 0.05, pgd=pgd)
    found["validation"]["alignment"] = alignment
    return found | ({"exempt": exempt} if exempt else {})


def kinds(history: list[dict], *, attacks: bool = True, num_classes: int = 10) -> list[str]:
    return [warning["kind"] for warning in warnings_of(history, num_classes, attacks=attacks)]


CHANCE: dict[str, Any] = {"clean": 0.1, "loss": math.log(10)}
GAP: dict[str, Any] = {"fgsm": 0.6, "pgd": 0.01}


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([record(**CHANCE)], ["collapse"]),
        ([record(progress=0.1, **CHANCE)], []),  # too early to tell
        ([record(clean=0.2, loss=math.log(10))], []),  # better than chance
        ([record(clean=0.1, loss=0.4)], []),  # far from the plateau: something else is wrong
        ([record(), record(2, **CHANCE)], ["collapse"]),
        ([record(1, **CHANCE), record(2)], []),  # it recovered
        ([record(**GAP)], []),  # once is no jump
        ([record(1, **GAP), record(2, **GAP)], ["catastrophic_overfitting"]),
        ([record(1, **GAP), record(2), record(3, **GAP)], []),
        ([record(1, **GAP), record(2, **GAP), record(3)], []),
        ([record(e, fgsm=0.9, pgd=0.3) for e in (1, 2)], []),  # a wide gap, but PGD is not near zero
        ([record(e, fgsm=0.3, pgd=0.01) for e in (1, 2)], []),  # weak against both: not overfitting to FGSM
        # Low robust accuracy that jumps to zero: the usual rule (a drop of 0.2 in one epoch) would miss it
        (
            [record(1, fgsm=0.2, pgd=0.15), *(record(e, fgsm=0.7, pgd=0.0) for e in (2, 3))],
            ["catastrophic_overfitting"],
        ),
        # The loss is bent within the ball and PGD accuracy has fallen by more than 40 % of its best: gap or no gap
        ([record(1, pgd=0.2), bent(2), bent(3)], ["catastrophic_overfitting"]),
        ([record(1, pgd=0.2), bent(2), bent(3, alignment=0.6)], []),
        ([record(1, pgd=0.2), bent(2, pgd=0.13), bent(3)], []),  # fallen by a third only, at the first check
        ([bent(1, pgd=0.0), bent(2, pgd=0.0)], []),  # a young net: there was nothing to lose
        ([record(1, pgd=0.2), bent(2, exempt="recovery"), bent(3)], []),
        ([record(e, **GAP) | {"exempt": "clean images"} for e in (1, 2)], []),
    ],
)
def test_collapse_and_catastrophic_overfitting_are_told_from_what_looks_like_them(history, expected):
    assert kinds(history) == expected


def test_a_net_that_is_not_attacked_may_fall_to_pgd():
    history = [record(e, **GAP) for e in (1, 2)]
    assert kinds(history, attacks=False) == []


def test_chance_depends_on_the_number_of_classes():
    history = [record(clean=0.1, loss=4.5)]
    assert kinds(history, num_classes=100) == []
    assert kinds([record(clean=0.012, loss=4.5)], num_classes=100) == ["collapse"]


def test_a_warning_says_the_numbers_and_what_to_try():
    (collapse,) = warnings_of([record(**CHANCE)], 10, attacks=True)
    assert "10.0%" in collapse["detail"]
    assert "ln K = 2.30" in collapse["detail"]
    assert "regime.epsilon.kind=ramp" in collapse["detail"]
    (overfitting,) = warnings_of([record(1, **GAP), record(2, **GAP)], 10, attacks=True)
    assert (
        "FGSM accuracy 60.0% but PGD accuracy 1.0% at 2 checks in a row; try guards.catastrophic"
        in (overfitting["detail"])
    )
    (curved,) = warnings_of([record(1, pgd=0.2), bent(2), bent(3)], 10, attacks=True)
    assert "PGD accuracy 10.0%, gradient alignment 0.30 at" in curved["detail"]


def test_a_net_with_signs_is_not_one_to_return_to_unless_clean_images_trained_it():
    sound, good = Collapse().sound, record(1, pgd=0.2)
    assert sound([])
    assert sound([good])
    assert not sound([good, bent(2)])
    assert sound([record(1, **GAP) | {"exempt": "clean images"}])
    for exempt in ("recovery", "small epsilon"):
        assert sound([good | {"exempt": exempt}])
        assert not sound([good, bent(2, exempt=exempt)])


def test_the_thresholds_are_settings():
    history = [record(1, fgsm=0.9, pgd=0.3), record(2, fgsm=0.9, pgd=0.3)]
    assert not Collapse().found(history)
    assert Collapse(gap=0.5, floor=0.35).found(history)
    assert not Collapse(gap=0.5, floor=0.35, checks=3).found(history)
    assert Collapse(checks=1).found([record(1, pgd=0.2), bent(2)])
    assert not Collapse(checks=1, drop=0.6).found([record(1, pgd=0.2), bent(2)])
    assert not Collapse(checks=1, alignment=0.2).found([record(1, pgd=0.2), bent(2)])


def test_a_collapse_is_reported_while_training(tmp_path, capfd):
    train(tiny("optimizer.lr=1e-9", "epochs=2"), tmp_path / "run")
    assert [w["epoch"] for w in records(tmp_path / "run", "warning") if w["kind"] == "collapse"] == [1, 2]
    assert "warning: collapse: validation accuracy" in capfd.readouterr().err


def test_overfitting_to_one_step_is_reported_while_training(tmp_path, capfd, monkeypatch):
    """What the probes measured is made up; that it is looked at is not."""
    ends = importlib.import_module("inure.training.epoch_end")
    made_up = {"fgsm_accuracy": 0.9, "probe_pgd_accuracy": 0.0}
    accuracies = ends.accuracies
    monkeypatch.setattr(ends, "accuracies", lambda counts: {**accuracies(counts), **made_up})
    train(
        load_recipe("digits/pgd_at", ["method.attack.kind=fgsm", *TINY, "epochs=3", "regime.epsilon=null"]),
        tmp_path / "run",
    )
    found = [w["epoch"] for w in records(tmp_path / "run", "warning") if w["kind"] == "catastrophic_overfitting"]
    assert found == [2, 3]
    assert "warning: catastrophic overfitting: FGSM accuracy 90.0%" in capfd.readouterr().err


def diverging(monkeypatch, step: int, *, times: int = 99) -> list[dict]:
    """Make a weight infinite before ``step``, ``times`` times; what is returned fills with each step's facts."""
    module = importlib.import_module("inure.training.step")
    real, seen = module.train_step, []

    def watched(fabric, model, optimizer, batch, **joints):
        number = round(batch.progress * 44) + 1
        net = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
        seen.append({"step": number, "lr": optimizer.param_groups[0]["lr"], "net": net})
        if number == step and sum(s["step"] == step for s in seen) <= times:
            infinite_weight(model)
        return real(fabric, model, optimizer, batch, **joints)

    monkeypatch.setattr(module, "train_step", watched)
    return seen


@pytest.mark.parametrize("check_every", [1, 20])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_named(tmp_path, monkeypatch, check_every):
    diverging(monkeypatch, 15)
    run = tmp_path / "run"
    with pytest.raises(NonFinite) as caught:
        train(tiny(f"guards.check_every={check_every}"), run, quiet=True)
    assert caught.value.step == 15
    assert caught.value.parts.keys() == {"loss", "natural", "robust_kl", "grad_norm"}
    assert not math.isfinite(caught.value.parts["loss"])
    assert caught.value.checkpoint == str(newest_checkpoint(run))
    assert info(run)["status"] == "stopped"
    (warning,) = records(run, "warning")[-1:]
    assert warning["kind"] == "nonfinite"
    assert warning["detail"].startswith("step 15: loss=")


def test_a_step_that_was_not_finite_is_caught_before_it_is_validated_or_saved(tmp_path, monkeypatch):
    """At the last step of an epoch, between two looks."""
    diverging(monkeypatch, 22)
    run = tmp_path / "run"
    with pytest.raises(NonFinite, match="step 22"):
        train(tiny("guards.check_every=100"), run, quiet=True)
    assert [r["step"] for r in records(run)] == [11]
    assert all(t.isfinite().all() for t in load_file(run / "checkpoints" / "last.safetensors").values())


def test_the_command_ends_with_code_1_and_one_line(tmp_path):
    run = tmp_path / "run"
    ended = inure("train", *RECIPE, "--out", run, "-q", folder=tmp_path, prepare=partial(diverge_at_step, 15))
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("inure: a loss or gradient was not finite at step 15: loss=")
    assert f"last good checkpoint: {newest_checkpoint(run)}" in ended.err
    assert ended.err.count("\n") == 1


def test_a_learning_rate_that_is_far_too_large_stops_the_run(tmp_path):
    with pytest.raises(NonFinite):
        train(tiny("optimizer.kind=sgd", "optimizer.lr=1e20", "optimizer.clip_norm=null"), tmp_path / "run", quiet=True)


def test_a_rollback_goes_on_from_the_checkpoint_with_a_lower_lr(tmp_path, monkeypatch):
    seen = diverging(monkeypatch, 15, times=1)
    run = tmp_path / "run"
    train(tiny("guards.nonfinite=rollback", "guards.check_every=2", "guards.rollback_factor=0.25"), run, quiet=True)
    steps = [s["step"] for s in seen]
    assert steps == [*range(1, 17), *range(12, 45)]
    before, after = (s for s in seen if s["step"] == 12)
    assert after["lr"] == pytest.approx(before["lr"] / 4)
    assert all(torch.equal(before["net"][name], after["net"][name]) for name in before["net"])
    warnings = [(w["kind"], w["step"]) for w in records(run, "warning") if w["kind"] in ("nonfinite", "rollback")]
    assert warnings == [("nonfinite", 11), ("rollback", 11)]
    assert [r["epoch"] for r in records(run)] == [1, 2, 3, 4]
    assert (info(run)["status"], records(run, "resume")) == ("finished", [])


def test_a_loss_that_is_not_finite_at_the_end_of_an_epoch_is_met_as_any_other(tmp_path, monkeypatch):
    """The last look was before it: an epoch of 11 steps has one look at its end with the default of 20."""
    seen = diverging(monkeypatch, 21, times=1)
    run = tmp_path / "back"
    # On all digits, of which enough is learnt that nothing else looks wrong
    train(tiny("guards.nonfinite=rollback", "data.examples=1437", "batch_size=128"), run, quiet=True)
    assert [s["step"] for s in seen] == [*range(1, 23), *range(12, 45)]
    assert [w["kind"] for w in records(run, "warning")] == ["nonfinite", "rollback"]
    diverging(monkeypatch, 21)
    run = tmp_path / "stop"
    with pytest.raises(NonFinite) as caught:
        train(tiny(), run, quiet=True)
    assert caught.value.checkpoint == str(newest_checkpoint(run))
    assert info(run)["status"] == "stopped"


def test_a_rollback_before_the_first_epoch_ends_goes_back_to_the_beginning(tmp_path, monkeypatch):
    seen = diverging(monkeypatch, 4, times=1)
    train(tiny("guards.nonfinite=rollback", "guards.check_every=1", "epochs=4"), tmp_path / "run", quiet=True)
    assert [s["step"] for s in seen][:6] == [1, 2, 3, 4, 1, 2]
    assert info(tmp_path / "run")["status"] == "finished"


def test_rollbacks_end(tmp_path, monkeypatch):
    seen = diverging(monkeypatch, 15)
    run = tmp_path / "run"
    recipe = tiny("guards.nonfinite=rollback", "guards.max_rollbacks=2", "guards.check_every=1")
    with pytest.raises(NonFinite, match="step 15"):
        train(recipe, run, quiet=True)
    rates = [s["lr"] for s in seen if s["step"] == 15]
    assert rates == pytest.approx([rates[0], rates[0] / 2, rates[0] / 4])
    assert [w["kind"] for w in records(run, "warning")].count("rollback") == 2
    assert info(run)["status"] == "stopped"


def test_a_run_killed_after_a_rollback_ends_with_the_same_bits(tmp_path):
    recipe = (*RECIPE, "guards.nonfinite=rollback", "guards.check_every=1")
    left, killed = tmp_path / "left", tmp_path / "killed"
    assert inure("train", *recipe, "--out", left, folder=tmp_path, prepare=partial(diverge_at_step, 15)).code == 0
    # Step 13 comes twice, before the rollback and after it
    deadly = partial(diverge_at_step, 15, kill_at=13)
    assert inure("train", *recipe, "--out", killed, folder=tmp_path, prepare=deadly).code == -9
    assert [w["kind"] for w in records(killed, "warning")].count("rollback") == 1
    # With the lower rate, which is in the checkpoint, nothing diverges any more
    assert inure("train", *recipe, "--out", killed, "--resume", folder=tmp_path).code == 0
    assert_same_run(killed, left)


def test_the_last_good_checkpoint_of_a_young_run_is_none(tmp_path, monkeypatch):
    diverging(monkeypatch, 4)
    with pytest.raises(NonFinite) as caught:
        train(tiny("guards.check_every=1"), Path(tmp_path / "run"), quiet=True)
    assert caught.value.checkpoint == "none"


@pytest.mark.slow
def test_a_real_run_that_overfits_to_one_step_is_noticed(tmp_path):
    """FGSM without a random start at epsilon 0.4: FGSM accuracy climbs to 60 %, PGD-20 accuracy stays near zero."""
    overrides = ["model.name=wrn10_2", "method.attack.kind=fgsm", "method.attack.threat.epsilon=0.4", "epochs=12"]
    overrides += [
        "evaluation.threat.epsilon=0.4",
        "evaluation.validation_steps=20",
        "evaluation.validation_examples=128",
    ]
    overrides += ["optimizer.lr=0.02", "regime.epsilon.until=0.3", "checkpoint.every=1"]
    train(load_recipe("digits/pgd_at", overrides), tmp_path / "run", quiet=True)
    assert "catastrophic_overfitting" in {w["kind"] for w in records(tmp_path / "run", "warning")}
