"""Temporal ensembling: the ensemble, its ramp, where its term acts, and what it leaves alone."""

import math
from dataclasses import replace

import pytest
import torch
from penalised import ATTACK, LINF, ROWS, batch_of, feature_net, memory_of, outer_of, train

from inure.attacks import APGD, PGD
from inure.losses import cross_entropy, kl
from inure.methods import MART, PGDAT, TRADES, CoTraining, Standard
from inure.optimizers import SGD
from inure.penalties import TemporalEnsembling, attack_terms
from inure.perturbation import AWP
from inure.recipe.recipe import Recipe
from inure.settings.errors import UserError
from tiny import assert_same_state, counting, soft, state_of

KEY = "temporal_ensembling.predictions"
FROM_THE_START = TemporalEnsembling(start=0, end=0.5)


def past_of(remembered, rows):
    """As the penalty normalises it."""
    values = remembered[KEY][rows]
    return values / values.sum(1, keepdim=True)


def test_the_ensemble_is_the_moving_average_with_its_bias_corrected():
    te = TemporalEnsembling(momentum=0.7, start=0)
    remembered = memory_of([te])
    batch, predictions = batch_of(remembered), []
    for time in range(4):
        net = feature_net(seed=time).train()
        te.attack_term(net, batch)
        with torch.no_grad():
            predictions.append(net.eval()(batch.x).softmax(1))
        average = sum(0.3 * 0.7 ** (time - i) * p for i, p in enumerate(predictions)) / (1 - 0.7 ** (time + 1))
        past = past_of(remembered, batch.index)
        assert torch.allclose(past, average, atol=1e-6)
        assert torch.allclose(past.sum(1), torch.ones(8))
        assert (past >= 0).all()


def test_rows_that_never_came_stay_zero_and_their_term_is_finite():
    remembered = memory_of([FROM_THE_START])
    FROM_THE_START.attack_term(feature_net(), batch_of(remembered))
    untouched = [row for row in range(ROWS) if row not in range(100, 108)]
    assert remembered[KEY][untouched].abs().sum() == 0
    assert remembered[KEY].shape == (ROWS + 1, 4)
    batch = batch_of(memory_of([FROM_THE_START]))
    assert FROM_THE_START(outer_of(feature_net(), batch)).isfinite().all()


def test_the_order_of_images_plays_no_part():
    order, found = torch.randperm(8), []
    for rows in (torch.arange(8), order):
        remembered = memory_of([FROM_THE_START])
        batch = batch_of(remembered)
        moved = replace(batch, x=batch.x[rows], y=batch.y[rows], index=batch.index[rows])
        FROM_THE_START.attack_term(feature_net(), moved)
        found.append(remembered[KEY])
    assert torch.allclose(*found, atol=1e-6)


@pytest.mark.parametrize(
    ("epoch", "share"),
    [(89, 0), (90, math.exp(-5)), (100, 0.031), (110, 0.108), (120, 0.287), (130, 0.574), (140, 0.87), (200, 1)],
)
def test_at_the_first_step_of_an_epoch_the_ramp_is_that_of_the_code(epoch, share):
    te = TemporalEnsembling(start=89 / 200, end=149 / 200)
    assert te._weight((epoch - 1) / 200) / 30 == pytest.approx(share, abs=6e-4)


def test_the_ramp_rises_and_a_ramp_of_no_length_is_a_step():
    weights = [TemporalEnsembling()._weight(progress / 100) for progress in range(100)]
    assert weights == sorted(weights)
    assert [w > 0 for w in weights].index(True) == 45
    step = TemporalEnsembling(start=0.5, end=0.5, weight=7)
    assert (step._weight(0.499), step._weight(0.5)) == (0, 7)
    with pytest.raises(UserError, match=r"end: got 0\.2; allowed a share of training from start = 0\.3 on"):
        TemporalEnsembling(start=0.3, end=0.2)


def test_the_term_is_the_squared_distance_of_probabilities_and_at_most_twice_the_weight():
    te = TemporalEnsembling(weight=3, start=0, end=0)
    remembered = memory_of([te])
    batch, net = batch_of(remembered), feature_net().eval()
    term = te.attack_term(feature_net(seed=1), batch)
    past = past_of(remembered, batch.index)
    other = net(batch.x)
    slow = torch.tensor([
        3 * sum((p - q) ** 2 for p, q in zip(ours, theirs, strict=True))
        for ours, theirs in zip(other.softmax(1).tolist(), past.tolist(), strict=True)
    ])  # fmt: skip
    assert torch.allclose(term(other), slow, atol=1e-6)
    assert torch.allclose(te(outer_of(net, batch)), slow, atol=1e-6)
    remembered[KEY][batch.index] = torch.eye(4)[0]
    sure = torch.full((8, 4), -50.0).index_fill(1, torch.tensor([2]), 50.0)
    assert te(replace(outer_of(net, batch), adversarial=sure)) == pytest.approx([6] * 8)


def test_a_step_of_pgd_at_is_that_of_the_equations(fabric):
    """The attack climbs the criterion and the term, and the update descends both at what it found."""
    method, te = PGDAT(attack=PGD(threat=LINF, steps=3, start="zero")), TemporalEnsembling(weight=20, start=0, end=0)
    start = {KEY: torch.rand(ROWS + 1, 4), "class_counts": torch.ones(4)}
    given = {name: value.clone() for name, value in start.items()}
    sgd = SGD(lr=0.1, momentum=0, weight_decay=0)
    net, (logged,), _ = train(fabric, method, [te], remembered=start, steps=1, optimizer=sgd)
    slow, batch = feature_net(), batch_of(given)
    with torch.no_grad():
        rows = 0.9 * given[KEY][batch.index] + 0.1 * slow.eval()(batch.x).softmax(1)
    past = rows / rows.sum(1, keepdim=True)

    def objective(logits, y):
        return cross_entropy(logits, y) + 20 * (logits.softmax(1) - past).pow(2).sum(1)

    x_adv = method.attack(slow.eval(), batch.x, batch.y, loss=objective)
    plain = method.attack(slow.eval(), batch.x, batch.y)
    assert not torch.equal(x_adv, plain), "the term changes the attack"
    loss = objective(slow.train()(x_adv), batch.y).mean()
    loss.backward()
    assert logged["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    for p, q in zip(net.parameters(), slow.parameters(), strict=True):
        assert torch.allclose(p, q - 0.1 * q.grad, atol=1e-6)
    assert torch.allclose(start[KEY][batch.index], rows, atol=1e-6)


@pytest.mark.parametrize("beta", [6, 0])
def test_a_step_of_trades_is_that_of_the_equations(fabric, beta):
    """The attack climbs beta KL and the term of the adversarial prediction, the update descends that of the clean."""
    method = TRADES(attack=PGD(threat=LINF, steps=3, start="gaussian"), beta=beta)
    te = TemporalEnsembling(weight=200, start=0, end=0)
    start = {KEY: torch.rand(ROWS + 1, 4), "class_counts": torch.ones(4)}
    given = {name: value.clone() for name, value in start.items()}
    sgd = SGD(lr=0.1, momentum=0, weight_decay=0)
    net, (logged,), _ = train(fabric, method, [te], remembered=start, steps=1, optimizer=sgd)
    slow, batch = feature_net(), batch_of(given)
    with torch.no_grad():
        clean = slow.eval()(batch.x)
        rows = 0.9 * given[KEY][batch.index] + 0.1 * clean.softmax(1)
    past = rows / rows.sum(1, keepdim=True)

    def near(logits):
        return 200 * (logits.softmax(1) - past).pow(2).sum(1)

    def climbed(logits, y):
        return beta * kl(logits, clean.log_softmax(1)) + near(logits)

    torch.manual_seed(0)
    x_adv = method.attack(slow.eval(), batch.x, batch.y, loss=climbed)
    both = slow.train()(torch.cat([batch.x, x_adv]))
    loss = cross_entropy(both[:8], batch.y) + beta * kl(both[8:], both[:8].log_softmax(1)) + near(both[:8])
    loss.mean().backward()
    assert logged["loss"].item() == pytest.approx(loss.mean().item(), rel=1e-5)
    for p, q in zip(net.parameters(), slow.parameters(), strict=True):
        assert torch.allclose(p, q - 0.1 * q.grad, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "on", "which"),
    [
        (PGDAT(), "auto", "adversarial"),
        (TRADES(), "auto", "clean"),
        (TRADES(), "adversarial", "adversarial"),
        (MART(), "auto", "adversarial"),
        (MART(), "clean", "clean"),
        (CoTraining(), "auto", "adversarial"),
        (CoTraining(), "clean", "clean"),
    ],
)
def test_it_acts_on_the_predictions_that_meet_their_labels_or_on_those_asked_for(method, on, which):
    te = TemporalEnsembling(start=0, end=0, on=on)
    remembered = memory_of([te], method)
    batch, net = batch_of(remembered), feature_net().eval()
    te.attack_term(net, batch)
    logits = {"clean": torch.randn(8, 4), "adversarial": torch.randn(8, 4)}
    found = te(replace(outer_of(net, batch, method=method), **logits))
    past = past_of(remembered, batch.index)
    assert torch.allclose(found, 30 * (logits[which].softmax(1) - past).pow(2).sum(1), atol=1e-5)


@pytest.mark.parametrize(("method", "on"), [(PGDAT(), "clean"), (Standard(), "adversarial")])
def test_predictions_that_a_method_does_not_make_are_refused(method, on):
    with pytest.raises(UserError, match=rf"penalties\[0\]\.on: got {on}; allowed auto \| "):
        Recipe(method=method, penalties=[TemporalEnsembling(on=on)])


@pytest.mark.parametrize("te", [TemporalEnsembling(weight=0, start=0), TemporalEnsembling(start=0.6)])
@pytest.mark.parametrize("method", [PGDAT(attack=ATTACK), TRADES(attack=ATTACK), CoTraining(attack=ATTACK)])
def test_before_its_start_and_without_weight_it_makes_no_pass_draws_nothing_and_changes_no_bit(fabric, te, method):
    plain, logged, _ = train(fabric, method, [])
    drawn = torch.rand(1)
    nets = feature_net()
    read = counting(nets)
    net, with_te, remembered = train(fabric, method, [te], net=nets)
    assert torch.equal(torch.rand(1), drawn)
    assert_same_state(state_of(plain), state_of(net))
    for a, b in zip(logged, with_te, strict=True):
        assert b.pop("temporal_ensembling") == 0
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert remembered[KEY].abs().sum() == 0
    count = len(read())
    bare = feature_net()
    read = counting(bare)
    train(fabric, method, [], net=bare)
    assert len(read()) == count


def test_awp_takes_note_once(fabric):
    net = feature_net()
    read = counting(net)
    _, _, remembered = train(fabric, PGDAT(attack=ATTACK), [FROM_THE_START], steps=1, net=net, perturbation=AWP())
    assert read() == [8] * (1 + 2 + 2)  # note, attack, twice the update
    with torch.no_grad():
        now = feature_net().eval()(batch_of({}).x).softmax(1)
    assert torch.allclose(remembered[KEY][100:108], 0.1 * now, atol=1e-6)


def test_taking_note_leaves_the_net_as_it_was():
    net = feature_net().train()
    net.net.norm.eval()
    before = state_of(net)
    FROM_THE_START.attack_term(net, batch_of(memory_of([FROM_THE_START])))
    assert_same_state(before, state_of(net))


def test_soft_labels_change_nothing_of_the_note(fabric):
    found = []
    for mixed in (False, True):
        remembered = memory_of([FROM_THE_START])
        batch = batch_of(remembered)
        batch = replace(batch, y=soft(batch.y)) if mixed else batch
        train(fabric, PGDAT(attack=ATTACK), [FROM_THE_START], remembered=remembered, batches=[batch])
        found.append(remembered[KEY])
    assert torch.equal(*found)


class Blinding:
    """A trick that changes what the net predicts while it is open."""

    def begin(self, model, progress):
        self.net = model.net
        self.bias = self.net.fc.bias.detach().clone()
        with torch.no_grad():
            self.net.fc.bias.add_(torch.tensor([9.0, 0, 0, 0]))

    def step(self, k, x_adv, x):
        return x_adv

    def end(self):
        with torch.no_grad():
            self.net.fc.bias.copy_(self.bias)


def test_a_trick_of_crafting_does_not_reach_the_note(fabric):
    found = []
    for crafting in (None, Blinding()):
        _, _, remembered = train(fabric, PGDAT(attack=ATTACK), [FROM_THE_START], steps=1, crafting=crafting)
        found.append(remembered[KEY])
    assert torch.equal(*found)


def test_attacks_that_let_go_of_fallen_images_know_which_past_is_whose(fabric):
    te = TemporalEnsembling(weight=50, start=0, end=0)
    attack = APGD(threat=LINF, steps=6, restarts=2, keep="worst")
    net, logged, _ = train(fabric, PGDAT(attack=attack), [te], steps=3)
    assert all(value.isfinite() for step in logged for value in step.values())
    remembered = memory_of([te])
    batch = batch_of(remembered)
    (term,) = attack_terms([te], PGDAT(), net, batch)
    logits, rows = torch.randn(8, 4), torch.tensor([5, 1, 1])
    assert torch.equal(term.of(rows)(logits[rows]), term(logits)[rows])


def test_with_several_attacks_every_one_has_the_past_of_its_image(fabric):
    method = CoTraining(attack=ATTACK, adversaries={"second": ATTACK})
    te = TemporalEnsembling(weight=5, start=0, end=0)
    remembered = memory_of([te])
    batch, net = batch_of(remembered), feature_net().eval()
    te.attack_term(net, batch)
    outer = outer_of(net, batch, method=method, x_adv=torch.cat([batch.x, batch.x.flip(3)]))
    alone = [te(outer_of(net, batch, x_adv=x)) for x in (batch.x, batch.x.flip(3))]
    assert torch.allclose(te(outer), torch.cat(alone), atol=1e-6)
    _, logged, _ = train(fabric, method, [te])
    assert all(value.isfinite() for step in logged for value in step.values())
