"""Choosing soups by few labels, by gradient, without labels, per image: against counting and brute force."""

import math

import pytest
import torch
from torch import nn

from inure.averaging.adaptation import choose_by_entropy, choose_per_image, enough_images, learn_mix
from inure.losses import cross_entropy, entropy_of
from inure.models import Classifier
from inure.models.adapt import adapt

MIXES = [{"a": 1.4, "b": -0.4}, {"a": 1.0, "b": 0.0}, {"a": 0.5, "b": 0.5}, {"a": 0.0, "b": 1.0}]


def linear(seed: int = 0) -> Classifier:
    """A linear classifier of 2 x 2 images whose two domains differ in weight and bias."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = adapt(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), "all", ("a", "b"))
        with torch.no_grad():
            for parameter in net.parameters():
                parameter[1] = torch.randn(parameter[1].shape)
    return net.eval()


def test_entropy_is_that_of_the_definition():
    logits = torch.tensor([[0.0, 0.0, 0.0], [0.0, 200.0, 0.0], [1.0, 2.0, 3.0]], dtype=torch.float64)
    p = logits.softmax(1)
    by_hand = -(p[2] * p[2].log()).sum()
    assert torch.allclose(entropy_of(logits), torch.stack([torch.tensor(math.log(3)).double(), by_hand * 0, by_hand]))


def test_without_labels_the_surest_mix_is_chosen_but_never_an_extrapolated_one():
    entropy = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.1, 0.9], [0.2, 0.3, 0.8], [0.4, 0.4, 0.1]])
    assert choose_by_entropy(entropy, MIXES, torch.tensor([0])) == 2
    assert choose_by_entropy(entropy, MIXES, torch.tensor([1])) == 1
    assert choose_by_entropy(entropy, MIXES, torch.tensor([0, 1, 2])) == 3
    assert choose_per_image(entropy, MIXES).tolist() == [2, 1, 3]
    tied = torch.zeros(4, 3)
    assert choose_by_entropy(tied, MIXES, torch.tensor([0, 1])) == 2


def test_where_all_mixes_are_extrapolated_all_take_part():
    assert choose_by_entropy(torch.tensor([[0.3], [0.1]]), [MIXES[0], {"a": -0.4, "b": 1.4}], torch.tensor([0])) == 1


@pytest.mark.parametrize("labelled", [True, False])
def test_the_learned_mix_is_the_best_of_a_fine_grid(labelled):
    net, generator = linear(), torch.Generator().manual_seed(1)
    x = torch.rand(50, 1, 2, 2, generator=generator)
    y = torch.randint(3, (50,), generator=generator) if labelled else None

    def value(weight: float) -> float:
        with torch.no_grad():
            logits = net(x, mix={"a": weight, "b": 1 - weight})
        return float((cross_entropy(logits, y) if y is not None else entropy_of(logits)).mean())

    low, high = (-0.4, 1.4) if labelled else (0.0, 1.0)
    best = min(value(low + (high - low) * k / 400) for k in range(401))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    mix = learn_mix(net, x, y, batch_size=16)
    assert sum(mix.values()) == pytest.approx(1, abs=1e-6)
    assert all(low - 1e-6 <= weight <= high + 1e-6 for weight in mix.values())
    assert value(mix["a"]) <= best + 1e-3
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_learning_does_not_depend_on_the_batch_size():
    net, x, y = linear(), torch.rand(20, 1, 2, 2, generator=torch.Generator().manual_seed(2)), torch.arange(20) % 3
    first, second = (learn_mix(net, x, y, batch_size=size) for size in (20, 7))
    assert first["a"] == pytest.approx(second["a"], abs=1e-3)


@pytest.mark.parametrize(
    ("curve", "enough"),
    [
        ([(10, 0.70, 0.04), (30, 0.788, 0.02), (100, 0.793, 0.008), (300, 0.80, 0.004)], 100),
        ([(10, 0.795, 0.009), (30, 0.80, 0.02)], 10),
        ([(10, 0.5, 0.001), (30, 0.8, 0.001)], None),
        ([(10, 0.8, 0.0)], None),
        ([], None),
    ],
)
def test_advice_names_the_least_size_as_good_as_the_largest(curve, enough):
    assert enough_images(curve) == enough
