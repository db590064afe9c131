"""The histogram of predictions on adversarial images: against a second count, over epochs, and in a resumed run."""

import signal
from dataclasses import replace
from functools import partial

import pytest
import torch

from faults import signal_at_step
from inure.balance import Balance, Counter, CrossEntropy, Rebalanced
from inure.memory import begin, end_epoch, facts_of
from inure.methods import PGDAT
from inure.optimizers import SGD
from inure.recipe.recipe import Recipe, load_recipe
from inure.recipe.regime import Regime
from inure.settings.errors import UserError
from inure.steps import Joints
from inure.training.step import train_step
from processes import TINY_ATTACK, assert_same_run, inure, newest_checkpoint, records
from tiny import tiny_batch, tiny_net

RECIPE = Recipe(method=PGDAT(), balance=Balance(counts=True))
LABELS = torch.tensor([0] * 20 + [1] * 10 + [2] * 3 + [3])


def memory_of(recipe=RECIPE):
    return begin(recipe, facts_of(LABELS, 4, (3, 6, 6), 8, "cpu"))


def test_it_begins_with_the_labels_and_takes_over_at_the_end_of_an_epoch():
    memory, counter = memory_of(), Counter()
    assert memory["counter.last"].tolist() == [20, 10, 3, 1]
    assert memory["counter.last"] is not memory["class_counts"]
    for predictions in ([0, 0, 2], [2, 3, 0]):
        batch = replace(tiny_batch(3), memory=memory)
        counter.observe(batch, torch.eye(4)[predictions])
        assert memory["counter.last"].tolist() == [20, 10, 3, 1]
    assert end_epoch(RECIPE, memory) == {"adversarial_predictions": [3, 0, 2, 1]}
    assert memory["counter.last"].tolist() == [3, 0, 2, 1]
    assert memory["counter.now"].tolist() == [0, 0, 0, 0]
    assert memory["class_counts"].tolist() == [20, 10, 3, 1]


def test_it_is_there_where_it_is_asked_for_or_needed():
    assert Balance().counter is None
    assert "counter.last" not in memory_of(Recipe(method=PGDAT()))
    for balance in (Balance(counts=True), Balance(attack=Rebalanced()), Balance(train=Rebalanced())):
        assert balance.counter == Counter()


def test_a_step_counts_the_raw_logits_of_the_outer_forward_before_the_update(fabric):
    """A second count from the logits that the net gave in train mode, on a batch of crafted images."""
    net, memory, seen = tiny_net().train(), memory_of(), []
    model, optimizer = fabric.setup(net, SGD(lr=0.5).build(net))
    net.register_forward_hook(lambda module, _, out: seen.append(out.detach()) if module.training else None)
    counted = torch.zeros(4)
    for step in range(3):
        batch = replace(tiny_batch(seed=step), memory=memory)
        seen.clear()
        train_step(
            fabric, model, optimizer, batch, method=PGDAT(), joints=Joints(balance=RECIPE.balance, regime=Regime())
        )
        (logits,) = seen  # the attack is in eval mode
        counted += torch.bincount(logits.argmax(1), minlength=4)
    assert memory["counter.now"].tolist() == counted.tolist()
    assert counted.sum() == 24


def test_counting_changes_nothing_else(fabric):
    nets = []
    for balance in (Balance(), Balance(counts=True)):
        torch.manual_seed(0)
        net = tiny_net().train()
        model, optimizer = fabric.setup(net, SGD(lr=0.5).build(net))
        batch = replace(tiny_batch(), memory=memory_of())
        train_step(fabric, model, optimizer, batch, method=PGDAT(), joints=Joints(balance=balance, regime=Regime()))
        nets.append(net.state_dict())
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])


def test_the_weights_follow_the_predictions_of_the_last_epoch():
    memory = memory_of()
    batch, logits = replace(tiny_batch(4), memory=memory), torch.zeros(4, 4)
    batch.y.copy_(torch.arange(4))
    balance = Balance(attack=Rebalanced())
    first = balance.attack_at(batch)(logits, batch.y)
    Counter().observe(batch, torch.eye(4)[[0] * 30 + [1] * 4])
    assert torch.equal(balance.attack_at(batch)(logits, batch.y), first)  # not before the epoch is over
    Counter().end_epoch(memory)
    second = balance.attack_at(batch)(logits, batch.y)
    plain = CrossEntropy()(logits, batch.y)
    expected = Rebalanced().weights(memory["class_counts"], torch.tensor([30.0, 4, 0, 0]).double())
    assert torch.allclose(second / plain, expected.float())
    assert not torch.allclose(second, first)


def test_a_step_of_its_own_is_refused():
    with pytest.raises(UserError, match=r"balance.counts: got True; allowed false: the step of method fast_adv_prop"):
        load_recipe("digits/standard", ["method.kind=fast_adv_prop", "balance.counts=true"])


LINE = ("digits/pgd_at", *TINY_ATTACK, "balance.train.kind=rebalanced", "data.examples=400")


def test_the_records_sum_to_the_images_and_a_resumed_run_keeps_m(tmp_path):
    assert inure("train", *LINE, "--out", "whole", folder=tmp_path).code == 0
    found = [record["adversarial_predictions"] for record in records(tmp_path / "whole")]
    images = 400 - 40
    assert len(found) == 4
    assert all(sum(counts) == images and len(counts) == 10 for counts in found)
    stop = partial(signal_at_step, 16, signal.SIGTERM)  # after 15 of 44 parts: the second step of the second epoch
    assert inure("train", *LINE, "--out", "cut", folder=tmp_path, prepare=stop).code == 143
    memory = torch.load(newest_checkpoint(tmp_path / "cut"), weights_only=True)["memory"]
    assert memory["counter.last"].tolist() == found[0]
    assert 0 < memory["counter.now"].sum() < images
    assert inure("train", *LINE, "--out", "cut", "--resume", folder=tmp_path).code == 0
    assert_same_run(tmp_path / "cut", tmp_path / "whole")
    assert [record["adversarial_predictions"] for record in records(tmp_path / "cut")] == found


def test_the_predictions_of_all_processes_are_counted(monkeypatch):
    memory = memory_of()
    others = torch.tensor([3, 3, 1])
    monkeypatch.setattr("inure.balance.counter.everywhere", lambda mine: torch.cat([mine, others]))
    Counter().observe(replace(tiny_batch(2), memory=memory), torch.eye(4)[[0, 1]])
    assert memory["counter.now"].tolist() == [1, 2, 0, 2]
