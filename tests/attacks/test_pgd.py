"""PGD step by step: against a plain loop, its starts, its restarts, which iterate it keeps."""

import pytest
import torch
from torch import nn

from inure.attacks import PGD
from inure.losses import cross_entropy, margin
from inure.threat import L2, Linf
from tiny import counting, noise_of, tiny_batch


def status(net, x_adv, y, loss):
    """(misclassified, loss) of each example: what a worst case is ordered by."""
    with torch.no_grad():
        logits = net(x_adv)
    return list(zip((logits.argmax(1) != y).tolist(), loss(logits, y).tolist(), strict=True))


def spy(net):
    """Every image batch that ``net`` sees from here on."""
    seen: list[torch.Tensor] = []
    net.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach().clone()))
    return seen


@pytest.mark.parametrize("step_size", [None, 0.03])
def test_pgd_equals_a_plain_loop(net, batch, step_size):
    x, y = batch.x, batch.y
    attack = PGD(threat=Linf(epsilon=0.1), steps=4, step_size=step_size, start="zero")
    slow = x.clone()
    for _ in range(4):
        slow.requires_grad_()
        (grad,) = torch.autograd.grad(cross_entropy(net(slow), y).sum(), slow)
        slow = slow.detach() + (2.5 * 0.1 / 4 if step_size is None else step_size) * grad.sign()
        slow = torch.maximum(torch.minimum(slow, x + 0.1), x - 0.1).clamp(0, 1)
    assert torch.allclose(attack(net, x, y), slow, rtol=0, atol=1e-6)


def test_the_default_step_size_is_2_255_for_10_steps_at_8_255(net, batch):
    assert torch.equal(
        PGD(start="zero")(net, batch.x, batch.y), PGD(start="zero", step_size=2 / 255)(net, batch.x, batch.y)
    )


def test_a_gaussian_start_is_small_noise_projected_before_the_first_gradient(net, batch):
    attack = PGD(threat=Linf(epsilon=0.001), steps=1, start="gaussian", start_std=0.002)
    seen = spy(net)
    attack(net, batch.x, batch.y, noise=noise_of(batch))
    delta = (0.002 * noise_of(batch).normal(batch.x)).clamp(-0.001, 0.001)
    assert torch.allclose(seen[0], (batch.x + delta).clamp(0, 1), rtol=0, atol=1e-7)


def test_a_uniform_start_is_the_threat_models_random_start(net, batch):
    for threat in (Linf(epsilon=0.1), L2(epsilon=1)):
        x_adv = PGD(threat=threat, steps=1, step_size=0)(net, batch.x, batch.y, noise=noise_of(batch))
        assert torch.allclose(x_adv, threat.random_start(batch.x, noise_of(batch)), rtol=0, atol=1e-7)


def test_noise_defaults_to_the_generator_of_torch(net, batch):
    attack = PGD(steps=2)
    torch.manual_seed(1)
    first = attack(net, batch.x, batch.y)
    assert not torch.equal(attack(net, batch.x, batch.y), first)
    torch.manual_seed(1)
    assert torch.equal(attack(net, batch.x, batch.y), first)


@pytest.mark.parametrize("keep", ["last", "worst"])
def test_restarts_keep_the_worst_of_independent_runs_for_each_example(net, keep):
    batch = tiny_batch(32)
    attack = PGD(threat=Linf(epsilon=0.03), steps=2, keep=keep)
    noise = noise_of(batch)
    runs = [attack(net, batch.x, batch.y, noise=noise, loss=margin) for _ in range(4)]
    by_run = [status(net, run, batch.y, margin) for run in runs]
    best = [max(range(4), key=lambda r: by_run[r][i]) for i in range(32)]
    assert len(set(best)) == 4
    together = attack.model_copy(update={"restarts": 4})
    x_adv = together(net, batch.x, batch.y, noise=noise_of(batch), loss=margin)
    assert torch.equal(x_adv, torch.stack([runs[r][i] for i, r in enumerate(best)]))


@pytest.mark.parametrize("loss", [cross_entropy, margin])
def test_more_restarts_are_never_weaker(net, batch, loss):
    found = []
    for restarts in (1, 2, 5):
        attack = PGD(threat=Linf(epsilon=0.03), steps=2, restarts=restarts)
        x_adv = attack(net, batch.x, batch.y, noise=noise_of(batch), loss=loss)
        found.append(status(net, x_adv, batch.y, loss))
    for fewer, more in zip(found, found[1:], strict=False):
        assert all(b >= a for a, b in zip(fewer, more, strict=True))
    assert found[-1] != found[0]


@pytest.mark.parametrize("loss", [cross_entropy, margin])
@pytest.mark.parametrize("restarts", [1, 3])
def test_keep_worst_is_at_least_as_bad_as_every_iterate(net, loss, restarts):
    batch = tiny_batch(32)
    # Steps of twice the ball jump from wall to wall, so that the last iterate is often not the worst
    attack = PGD(threat=Linf(epsilon=0.1), steps=5, step_size=0.2, restarts=restarts, keep="worst")
    seen = spy(net)
    x_adv = attack(net, batch.x, batch.y, loss=loss)
    iterates = list(seen)
    assert len(iterates) == restarts * 6
    kept, every = status(net, x_adv, batch.y, loss), [status(net, x, batch.y, loss) for x in iterates]
    for i in range(32):
        assert kept[i] == max(statuses[i] for statuses in every)
        assert any(torch.equal(x_adv[i], x[i]) for x in iterates)
    assert any(kept[i] > every[-1][i] for i in range(32))


def test_keep_worst_prefers_a_misclassified_iterate_to_a_higher_loss():
    class Bent(nn.Module):
        """Wrong with cross-entropy 0.73 at pixel 0.5; right, but unsure with 1.08, at pixel 1."""

        def forward(self, x):
            wrong, unsure = (torch.tensor(p).log() for p in ([0.48, 0.49, 0.03], [0.34, 0.33, 0.33]))
            return torch.lerp(wrong, unsure, 2 * x.flatten(1)[:, :1] - 1)

    x, y = torch.full((2, 1, 1, 1), 0.5), torch.zeros(2, dtype=torch.long)
    attack = PGD(threat=Linf(epsilon=0.5), steps=2, step_size=0.5, start="zero")
    assert torch.equal(attack(Bent(), x, y), torch.ones_like(x))
    assert torch.equal(attack.model_copy(update={"keep": "worst"})(Bent(), x, y), x)


def test_crafting_changes_the_iterate_before_each_gradient(net, batch):
    class Paint:
        def __init__(self):
            self.steps = []

        def step(self, k, x_adv, x):
            self.steps.append(k)
            return torch.where(x > 0.5, x_adv, x)

    paint, seen = Paint(), spy(net)
    PGD(steps=3)(net, batch.x, batch.y, crafting=paint)
    assert paint.steps == [0, 1, 2]
    assert all(torch.equal(x[batch.x <= 0.5], batch.x[batch.x <= 0.5]) for x in seen)
    assert not torch.equal(seen[1], batch.x)


def test_the_result_and_the_loss_have_no_graph_even_if_the_images_had_one(net, batch):
    x = batch.x.clone().requires_grad_()
    for attack in (PGD(steps=1), PGD(steps=1, restarts=2), PGD(steps=1, keep="worst")):
        assert not attack(net, x, batch.y).requires_grad
    assert x.grad is None


def test_pgd_works_where_gradients_are_off(net, batch):
    attack = PGD(steps=2, start="zero")
    outside = attack(net, batch.x, batch.y)
    with torch.no_grad():
        assert torch.equal(attack(net, batch.x, batch.y), outside)
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("attack", "forwards"),
    [(PGD(steps=3), 3), (PGD(steps=3, keep="worst"), 4), (PGD(steps=3, restarts=2), 8)],
)
def test_pgd_makes_the_forwards_that_it_states(net, batch, attack, forwards):
    read = counting(net)
    attack(net, batch.x, batch.y)
    assert read() == [len(batch.x)] * forwards


def test_parameter_gradients_are_not_computed(net, batch):
    seen = []
    net.net[-1].weight.register_hook(lambda grad: seen.append(grad))
    net.register_forward_pre_hook(lambda *_: seen.extend(p for p in net.parameters() if p.requires_grad))
    PGD(steps=2)(net, batch.x, batch.y)
    assert seen == []
