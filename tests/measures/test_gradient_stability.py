"""Gradient predictiveness against a quadratic, and that nothing of it stays behind."""

import pytest
import torch
from torch import nn

from inure.attacks import PGD
from inure.losses import cross_entropy
from inure.measures.gradient_stability import grad_norm, gradient_predictiveness, objective_of
from inure.methods import PGDAT, TRADES
from inure.recipe.regime import Regime
from inure.threat import Linf
from tiny import assert_same_state, state_of, tiny_batch, tiny_net

CURVATURE = torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64)


class Quadratic(nn.Module):
    """w, whose loss is w . A w / 2 for A = diag(4, 1, 0)."""

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.tensor(weights[:1], dtype=torch.float64))
        self.rest = nn.Parameter(torch.tensor(weights[1:], dtype=torch.float64))

    def loss(self):
        w = torch.cat([self.first, self.rest])
        return (CURVATURE * w**2).sum() / 2


def test_of_a_quadratic_it_is_the_closed_form():
    model = Quadratic([1.0, 2.0, 5.0])
    found = gradient_predictiveness(model, Quadratic.loss, step=0.3)
    g = CURVATURE * torch.tensor([1.0, 2.0, 5.0])
    change = 0.3 * CURVATURE * g / g.norm()
    assert float(found.norm) == pytest.approx(float(g.norm()))
    assert float(found.distance) == pytest.approx(float(change.norm()))
    assert float(found.cosine) == pytest.approx(float(g @ (g - change) / g.norm() / (g - change).norm()))
    assert float(grad_norm(model, Quadratic.loss)) == pytest.approx(float(g.norm()))


def test_a_step_past_the_bottom_turns_the_gradient_round():
    found = gradient_predictiveness(Quadratic([1.0, 0.0, 0.0]), Quadratic.loss, step=3)
    assert float(found.cosine) == pytest.approx(-1)
    assert float(found.distance) == pytest.approx(4 * 3)


def test_at_a_minimum_nothing_moves_and_nothing_is_nan():
    found = gradient_predictiveness(Quadratic([0.0, 0.0, 7.0]), Quadratic.loss, step=0.3)
    assert [float(value) for value in found] == [0, 0, 0]


def objective(method, batch):
    return objective_of(
        method, batch, Regime().search(method, 0.5), craft_criterion=cross_entropy, criterion=cross_entropy
    )


@pytest.mark.parametrize("kind", [PGDAT, TRADES])
@pytest.mark.parametrize("mode", ["eval", "train_frozen_stats"])
def test_it_leaves_net_gradients_and_generator_as_they_were(kind, mode):
    batch, net = tiny_batch(), tiny_net().train()
    net.net[1].eval()
    next(net.parameters()).requires_grad_(False)
    net(batch.x).sum().backward()
    attack = PGD(threat=Linf(epsilon=0.05), steps=2)
    before, generator = state_of(net), torch.get_rng_state()
    with torch.no_grad():
        found = gradient_predictiveness(net, objective(kind(attack=attack), batch), step=0.1, mode=mode)
    assert_same_state(before, state_of(net))
    assert torch.equal(generator, torch.get_rng_state())
    assert float(found.distance) > 0
    assert -1 <= float(found.cosine) < 1


def test_the_attack_draws_the_same_noise_at_both_ends():
    """At step 0 the two gradients are the same one, whatever the attack draws."""
    net, batch = tiny_net(), tiny_batch()
    method = PGDAT(attack=PGD(threat=Linf(epsilon=0.05), steps=2, start="uniform"))
    found = gradient_predictiveness(net, objective(method, batch), step=0)
    assert float(found.distance) == 0
    assert float(found.cosine) == pytest.approx(1)
    again = gradient_predictiveness(net, objective(method, batch), step=0.1)
    other = gradient_predictiveness(net, objective(method, batch), step=0.1, seed=1)
    assert gradient_predictiveness(net, objective(method, batch), step=0.1) == again
    assert float(other.norm) != float(again.norm)


def test_the_attack_is_made_anew_at_the_new_weights():
    net, batch = tiny_net(), tiny_batch()
    seen = []

    def craft(model, *arguments):
        seen.append([parameter.detach().clone() for parameter in model.parameters()])
        return batch.x

    method = type("Watched", (), {"craft": staticmethod(craft), "losses": PGDAT().losses})
    gradient_predictiveness(net, objective(method, batch), step=0.5)
    assert len(seen) == 2
    moved = sum(float(((a - b) ** 2).sum()) for a, b in zip(*seen, strict=True)) ** 0.5
    assert moved == pytest.approx(0.5, rel=1e-4)
