"""Mixes that want a gradient, and mixes of low-rank updates, against nets with the weights put in by hand."""

import pytest
import torch
from torch import nn

from adapted import moved, with_statistics
from inure.models import Classifier, Model, build
from inure.models.adapt import adapt, fold
from inure.models.adapters import ADAPTERS
from inure.settings.errors import UserError

X = torch.rand(6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
ROWS = torch.stack([torch.linspace(-0.4, 1.4, 6).double(), 1 - torch.linspace(-0.4, 1.4, 6).double()], 1)
CASES = [
    *[("vit_digits", kind) for kind in ADAPTERS if kind != "batchnorm"],
    *[("wrn10_1", kind) for kind in ("norm", "batchnorm", "all")],
]


def plain(name: str) -> Classifier:
    net = build(Model(name=name), num_classes=10, shape=(1, 8, 8))
    with_statistics(net, torch.rand(32, 1, 8, 8))
    return net.double()


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("weights", [(0.3, 0.7), (1.2, -0.2), (0.0, 1.0)], ids=str)
def test_a_tensor_of_weights_is_the_mapping(name, kind, weights):
    adapted = moved(adapt(plain(name), kind), 0.1)
    mapping = dict(zip(("clean", "robust"), weights, strict=True))
    found = adapted(X, mix=torch.tensor(weights, dtype=torch.float64))
    assert torch.allclose(found, adapted(X, mix=mapping), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found, adapted(X, mix="clean"), rtol=1e-3)
    assert torch.equal(fold(adapted, torch.tensor(weights, dtype=torch.float64))(X), found)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_gradient_to_the_weights_is_that_of_finite_differences(name, kind):
    adapted = moved(adapt(plain(name), kind), 0.1)
    weights = torch.tensor([0.35, 0.65], dtype=torch.float64, requires_grad=True)
    direction = torch.tensor([1.0, -1.0], dtype=torch.float64)  # the weights sum to 1

    def loss(w):
        return adapted(X, mix=w).logsumexp(1).square().sum()

    loss(weights).backward()
    assert weights.grad is not None
    step = 1e-7  # or ReLUs turn over in between
    with torch.no_grad():
        difference = (loss(weights + step * direction) - loss(weights - step * direction)) / (2 * step)
    assert weights.grad @ direction == pytest.approx(float(difference), rel=1e-5, abs=1e-6)
    assert abs(float(difference)) > 1e-4
    assert adapted.mixture.choice.domain == 0


@pytest.mark.parametrize("kind", ["cls_token", "norm", "lora", "head", "all"])
def test_a_gradient_reaches_weights_per_image_too(kind):
    adapted = moved(adapt(plain("vit_digits"), kind), 0.1)
    rows = ROWS.clone().requires_grad_()
    adapted(X, mix=rows).square().sum().backward()
    for image, row, found in zip(X, ROWS, rows.grad, strict=True):
        weights = row.clone().requires_grad_()
        adapted(image[None], mix=weights).square().sum().backward()
        assert torch.allclose(found, weights.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.tensor([0.5, 0.6]), "mix: got a row with another sum; allowed weights of clean | robust whose sum is 1"),
        (torch.tensor([0.2, 0.3, 0.5]), r"mix: got torch.float32 \(3,\); allowed floats"),
        (torch.tensor(1.0), r"mix: got torch.float32 \(\)"),
        (torch.tensor([1, 0]), r"mix: got torch.int64 \(2,\)"),
        (torch.ones(1, 2) / 2, r"mix: got torch.float32 \(1, 2\)"),
    ],
    ids=str,
)
def test_a_tensor_of_weights_that_makes_no_sense_is_refused(weights, message):
    adapted = adapt(plain("vit_digits")).float()
    with pytest.raises(UserError, match=message) as caught:
        adapted(X.float(), mix=weights)
    assert "\n" not in str(caught.value)


# Low-rank updates


def updated_by_hand(adapted: Classifier, update) -> Classifier:
    """The plain net with ``update(up, down)`` of every chosen projection added to its rows of ``qkv``."""
    net = fold(adapted, "clean")
    for block, mixed in zip(net.net.blocks, adapted.net.blocks, strict=True):
        lists = mixed.attn.qkv.parametrizations.weight
        up, down = lists[0].up, lists[0].down  # (K, 2, D, r), (K, 2, r, D): queries and values
        with torch.no_grad():
            weight = lists.original.clone()
            dim = weight.shape[1]
            for place, rows in ((0, slice(0, dim)), (1, slice(2 * dim, 3 * dim))):
                weight[rows] += update(up[:, place], down[:, place])
            block.attn.qkv.weight.copy_(weight)
    return net


def product(weights):
    return lambda up, down: sum(w * (u @ d) for w, u, d in zip(weights, up, down, strict=True))


def factors(weights):
    def update(up, down):
        return sum(w * u for w, u in zip(weights, up, strict=True)) @ sum(
            w * d for w, d in zip(weights, down, strict=True)
        )

    return update


@pytest.mark.parametrize(("mix_of", "by_hand"), [("product", product), ("factors", factors)])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.3, 0.7), (-0.4, 1.4)], ids=str)
def test_a_soup_of_low_rank_updates_is_the_net_with_the_mixed_update_put_in(mix_of, by_hand, weights):
    adapted = moved(adapt(plain("vit_digits"), "lora", lora_mix=mix_of))
    expected = updated_by_hand(adapted, by_hand(weights))(X)
    mapping = dict(zip(("clean", "robust"), weights, strict=True))
    assert torch.allclose(adapted(X, mix=mapping), expected, rtol=1e-10, atol=1e-12)
    assert torch.allclose(fold(adapted, mapping)(X), expected, rtol=1e-10, atol=1e-12)
    rows = torch.tensor([weights], dtype=torch.float64).repeat(6, 1)
    assert torch.allclose(adapted(X, mix=rows), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("mix_of", "by_hand"), [("product", product), ("factors", factors)])
def test_each_image_gets_its_own_mixed_update(mix_of, by_hand):
    adapted = moved(adapt(plain("vit_digits"), "lora", lora_mix=mix_of))
    found = adapted(X, mix=ROWS)
    for image, row, logits in zip(X, ROWS.tolist(), found, strict=True):
        expected = updated_by_hand(adapted, by_hand(row))(image[None])[0]
        assert torch.allclose(logits, expected, rtol=1e-10, atol=1e-12)


def test_the_two_ways_differ_but_for_a_domain_alone():
    net = plain("vit_digits")
    one, other = (adapt(net, "lora", lora_mix=mix_of) for mix_of in ("product", "factors"))
    moved(one)
    other.load_state_dict(one.state_dict())
    for mode in ("clean", "robust"):
        assert torch.allclose(one(X, mix=mode), other(X, mix=mode), rtol=1e-12, atol=1e-14)
    mix = {"clean": 0.5, "robust": 0.5}
    assert not torch.allclose(one(X, mix=mix), other(X, mix=mix), rtol=1e-3)
    assert isinstance(fold(one, mix).net.blocks[0].attn.qkv, nn.Linear)
