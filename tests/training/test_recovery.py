"""What the guards do about catastrophic overfitting: stop, switch and roll back, resumed exactly."""

import importlib
import os
import signal
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from inure.attacks import FGSM, PGD
from inure.methods import PGDAT, TRADES, Free
from inure.recipe.recipe import load_recipe
from inure.recipe.regime import in_recovery
from inure.settings.errors import UserError
from inure.threat import Linf
from inure.training.train import train
from processes import TINY, assert_same_run, info, inure, records

FGSM_RUN = ("digits/pgd_at", "method.attack.kind=fgsm", *TINY, "epochs=8", "regime.epsilon=null")
STEPS_PER_EPOCH = 11


def tiny(*overrides: str):
    return load_recipe(FGSM_RUN[0], [*FGSM_RUN[1:], *overrides])


def seems(bad: dict[int, int]) -> None:
    """Make validations after ``bad`` epochs, each so many times, look like a collapse; the others sound.

    The numbers are made up; what is done about them is not.
    """
    ends, left = importlib.import_module("inure.training.epoch_end"), dict(bad)
    real = ends.validated

    def validate(self, module):
        found = real(self, module)
        wrong = left.get(self.progress.epoch, 0) > 0
        left[self.progress.epoch] = left.get(self.progress.epoch, 0) - 1
        pgd, alignment = (0.0, 0.2) if wrong else (0.3 + self.progress.epoch / 100, 0.9)
        made_up = {"fgsm_accuracy": 0.6, "probe_pgd_accuracy": pgd, "alignment": alignment, "robust_accuracy": pgd}
        return {**found, **made_up}

    ends.validated = validate


@pytest.fixture
def looking(monkeypatch):
    """``seems``, undone at the end; and the attacks and learning rates of each epoch."""
    ends, module = importlib.import_module("inure.training.epoch_end"), importlib.import_module("inure.training.step")
    monkeypatch.setattr(ends, "validated", ends.validated)
    real, seen = module.train_step, []

    def watched(fabric, model, optimizer, batch, *, method, **joints):
        epoch = int(batch.progress * 8 + 1e-6) + 1
        entry = (epoch, method.attack.kind, optimizer.param_groups[0]["lr"])
        if not seen or seen[-1][:2] != entry[:2]:
            seen.append(entry)
        return real(fabric, model, optimizer, batch, method=method, **joints)

    monkeypatch.setattr(module, "train_step", watched)
    return seen


def attacks(seen: list) -> list[tuple[int, str]]:
    return [entry[:2] for entry in seen]


def test_a_warning_is_all_by_default(tmp_path, looking):
    seems({3: 1, 4: 1})
    train(tiny(), tmp_path / "run", quiet=True)
    assert {kind for _, kind in attacks(looking)} == {"fgsm"}
    assert [w["epoch"] for w in records(tmp_path / "run", "warning") if w["kind"] == "catastrophic_overfitting"] == [4]
    assert info(tmp_path / "run")["epochs_done"] == 8


def test_a_stop_hands_on_the_best_weights_whatever_is_selected(tmp_path, looking):
    seems({3: 1, 4: 1})
    run = tmp_path / "run"
    recipe = tiny("guards.catastrophic=stop", "checkpoint.select=last")
    train(recipe, run, quiet=True)
    found = info(run)
    assert (found["status"], found["selected"], found["epochs_done"]) == ("finished", "best", 4)
    assert found["best"]["epoch"] == 2
    handed_on, last = (load_file(run / name) for name in ("weights.safetensors", "checkpoints/last.safetensors"))
    assert any(not torch.equal(handed_on[name], last[name]) for name in last)
    found = records(run, "warning")
    assert (found[-1]["kind"], info(run)["collapsed"]) == ("stop", True)
    assert found[-1]["detail"] == "the weights with the best accuracy so far, of epoch 2, are handed on"
    assert not any("try guards" in w["detail"] for w in found), "the guard does something: no advice"
    train(recipe, run, quiet=True, resume=True)
    assert info(run)["epochs_done"] == 4


def test_a_switch_trains_with_pgd_for_so_many_epochs_and_returns(tmp_path, looking):
    seems({2: 1, 3: 1})
    run = tmp_path / "run"
    train(tiny("guards.catastrophic=switch", "guards.recovery_epochs=2"), run, quiet=True)
    assert attacks(looking) == [(e, "pgd" if e in (4, 5) else "fgsm") for e in range(1, 9)]
    assert [r["epoch"] for r in records(run) if r.get("exempt") == "recovery"] == [4, 5]
    assert info(run)["recovery_steps"] == 2 * STEPS_PER_EPOCH
    (said,) = [w for w in records(run, "warning") if w["kind"] == "switch"]
    assert (said["epoch"], said["detail"]) == (3, "2 epochs of PGD-7")


def test_what_is_still_bad_in_a_recovery_counts_only_after_it(tmp_path, looking):
    seems({e: 1 for e in range(2, 8)})
    train(tiny("guards.catastrophic=switch", "guards.recovery_epochs=1"), tmp_path / "run", quiet=True)
    assert [epoch for epoch, kind in attacks(looking) if kind == "pgd"] == [4, 7]


def test_a_rollback_returns_to_the_last_sound_checkpoint_with_a_lower_lr_and_pgd(tmp_path, looking):
    """Epochs 4 and 5 look bad: 4 and 5 are forgotten, and trained again with PGD from the end of 3."""
    seems({4: 1, 5: 1})
    run = tmp_path / "run"
    train(tiny("guards.catastrophic=rollback", "guards.rollback_factor=0.25"), run, quiet=True)
    kinds = [(e, "fgsm") for e in (1, 2, 3, 4, 5)] + [(4, "pgd"), (5, "pgd"), (6, "fgsm"), (7, "fgsm"), (8, "fgsm")]
    assert attacks(looking) == kinds
    rates = {i: lr for i, (_, _, lr) in enumerate(looking)}
    first, again = (i for i, (epoch, _, _) in enumerate(looking) if epoch == 4)
    assert rates[again] == pytest.approx(rates[first] / 4)
    assert [r["epoch"] for r in records(run)] == [*range(1, 9)]
    said = [w for w in records(run, "warning") if w["kind"] in ("rollback", "catastrophic_overfitting")]
    assert [(w["kind"], w["step"]) for w in said] == [("rollback", 33)]
    expected = "FGSM accuracy 60.0% but PGD accuracy 0.0%, gradient alignment 0.20 after epoch 5: back to step 33, "
    assert said[0]["detail"] == expected + "lr times 0.25, 2 epochs of PGD-7"


def test_rollbacks_that_do_not_help_end_in_a_stop(tmp_path, looking):
    seems({4: 9, 5: 9, 6: 9, 7: 9})
    run = tmp_path / "run"
    recipe = tiny("guards.catastrophic=rollback", "guards.max_rollbacks=1", "guards.recovery_epochs=0")
    train(recipe, run, quiet=True)
    assert attacks(looking)[-1][0] == 5
    assert (info(run)["selected"], info(run)["best"]["epoch"]) == ("best", 3)


def test_a_collapse_from_the_beginning_goes_back_to_the_beginning(tmp_path, looking):
    seems({1: 1, 2: 1})
    train(tiny("guards.catastrophic=rollback", "guards.collapse.drop=1"), tmp_path / "run", quiet=True)
    assert [epoch for epoch, kind in attacks(looking) if kind == "pgd"][:2] == [1, 2]


def test_the_price_of_what_a_rollback_undid_is_counted(tmp_path, looking):
    """4 and 5 look bad, and so do 6 and 7 after the recovery: back to the end of 5, and PGD once more."""
    seems({4: 1, 5: 1, 6: 1, 7: 1})
    run = tmp_path / "run"
    train(tiny("guards.catastrophic=rollback", "regime.phases=[{until: 0}]"), run, quiet=True)
    assert [epoch for epoch, kind in attacks(looking) if kind == "pgd"] == [4, 5, 6, 7]
    assert info(run)["recovery_steps"] == 4 * STEPS_PER_EPOCH
    # FGSM, of two passes a step: epochs 1 to 5, 6 and 7 before they were undone, and 8
    assert info(run)["phases"]["pairs"] == 2 * 8 * STEPS_PER_EPOCH


def killed_in(epoch: int, bad: dict[int, int]) -> None:
    """A collapse that seems, and SIGKILL at the fifth step of an epoch with PGD."""
    seems(bad)
    module = importlib.import_module("inure.training.step")
    real = module.train_step

    def deadly(fabric, model, optimizer, batch, *, method, **joints):
        if method.attack.kind == "pgd" and round(batch.progress * 88) == (epoch - 1) * STEPS_PER_EPOCH + 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(fabric, model, optimizer, batch, method=method, **joints)

    module.train_step = deadly


@pytest.mark.parametrize(
    ("action", "bad", "deadly"),
    [("switch", {2: 1, 3: 1}, 5), ("rollback", {4: 1, 5: 1}, 5)],
    ids=["switch", "rollback"],
)
def test_a_run_killed_in_its_recovery_ends_with_the_same_bits(tmp_path, action, bad, deadly):
    recipe = (*FGSM_RUN, f"guards.catastrophic={action}")
    left, killed = tmp_path / "left", tmp_path / "killed"
    assert inure("train", *recipe, "--out", left, folder=tmp_path, prepare=partial(seems, bad)).code == 0
    ended = inure("train", *recipe, "--out", killed, folder=tmp_path, prepare=partial(killed_in, 5, bad))
    assert ended.code == -9
    # The bad validations are over: what is left to do is in the checkpoint
    assert inure("train", *recipe, "--out", killed, "--resume", folder=tmp_path, prepare=partial(seems, {})).code == 0
    assert_same_run(killed, left)


def test_in_a_recovery_the_method_keeps_all_but_its_attack():
    threat = Linf(epsilon=0.1)
    assert in_recovery(TRADES(attack=FGSM(threat=threat), beta=3), 7) == TRADES(
        attack=PGD(threat=threat, steps=7), beta=3
    )
    assert in_recovery(PGDAT(attack=PGD(threat=threat, steps=10)), 7).attack.steps == 10
    recovered = in_recovery(Free(attack=FGSM(threat=threat)), 5)
    assert recovered == PGDAT(attack=PGD(threat=threat, steps=5), attack_mode="train")


def test_what_cannot_be_recovered_is_refused():
    with pytest.raises(UserError, match=r"guards.catastrophic: got stop; allowed warn: method standard does"):
        load_recipe("digits/standard", ["guards.catastrophic=stop"])
    with pytest.raises(UserError, match=r"guards.recovery_epochs: got 0; allowed at least 1"):
        tiny("guards.catastrophic=switch", "guards.recovery_epochs=0")
    with pytest.raises(UserError, match="the step of method fast_adv_prop is its own attack"):
        load_recipe("digits/soup", ["method.kind=fast_adv_prop", "guards.catastrophic=switch"])


def killed_on_the_way_back(bad: dict[int, int]) -> None:
    """A collapse that seems, and SIGKILL when the return would be saved."""
    seems(bad)
    session = importlib.import_module("inure.training.session").Session
    save = session.save

    def deadly(self, *, sound=False):
        if self.progress.rollbacks:
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, sound=sound)

    session.save = deadly


def test_a_run_killed_before_its_return_is_saved_returns_once_more(tmp_path):
    recipe = (*FGSM_RUN, "guards.catastrophic=rollback")
    left, killed = tmp_path / "left", tmp_path / "killed"
    bad = {4: 1, 5: 1}
    assert inure("train", *recipe, "--out", left, folder=tmp_path, prepare=partial(seems, bad)).code == 0
    deadly = partial(killed_on_the_way_back, bad)
    assert inure("train", *recipe, "--out", killed, folder=tmp_path, prepare=deadly).code == -9
    assert [r["epoch"] for r in records(killed)] == [1, 2, 3, 4, 5], "nothing is forgotten yet"
    again = partial(seems, {5: 1})
    assert inure("train", *recipe, "--out", killed, "--resume", folder=tmp_path, prepare=again).code == 0
    assert_same_run(killed, left)
    assert info(killed)["recovery_steps"] == info(left)["recovery_steps"] == 2 * STEPS_PER_EPOCH
    for run in (killed, left):
        assert [w["kind"] for w in records(run, "warning") if w["kind"] == "rollback"] == ["rollback"]
