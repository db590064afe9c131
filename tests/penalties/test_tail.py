"""TAIL against loops over anchors, images and features, in float64."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from inure.memory import CLASS_COUNTS
from inure.methods import PGDAT
from inure.penalties import TAIL
from inure.penalties.penalty import Outer
from inure.types import Batch

COUNTS = torch.tensor([500.0, 300, 200, 120, 80, 50, 30, 20, 12, 7], dtype=torch.float64)
SETTINGS = [
    TAIL(reduction=reduction, sign=sign, rule=rule, weight=weight)
    for reduction in ("faithful", "pairwise")
    for sign, rule, weight in ((1, "index", 1), (-1, "index", 0.3), (1, "counts", 2))
]


def seen(z, y, counts=COUNTS):
    """What the penalty sees of features (B, D) and labels."""
    batch = Batch(torch.zeros(len(y), 1, 1, 1), y, torch.arange(len(y)), 0.5, {CLASS_COUNTS: counts})
    logits = torch.zeros(len(z), len(counts), dtype=z.dtype)
    return Outer(torch.nn.Identity(), PGDAT(), batch, batch.x, logits, None, z, None, lambda a, b: a[:, 0])


def example(size=12, width=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(size, width, generator=generator, dtype=torch.float64)
    y = torch.randint(10, (size,), generator=generator)
    y[:3] = torch.tensor([7, 9, 9])
    return z, y


def loops(tail, z, y, counts=COUNTS):
    """The penalty as the code does it: anchor by anchor, pair by pair, feature by feature."""
    rare = [int(k) for k in tail.rare(counts).nonzero()]
    v = [float((counts.sum() / n) ** 0.5) for n in counts]
    p = z.softmax(1)
    total, anchors = 0.0, [b for b in range(len(y)) if int(y[b]) in rare]
    for b in anchors:
        q = p[b].detach()
        kls, signed = [], []
        for j in range(len(y)):
            kls.append(sum(q[d] * (q[d].log() - p[j, d].log()) for d in range(z.shape[1])))
            signed.append((-1 if y[j] == y[b] else 1) * (v[int(y[b])] + v[int(y[j])]))
        if tail.reduction == "pairwise":
            total = total + sum(s * k for s, k in zip(signed, kls, strict=True)) / len(y)
        else:
            total = total + sum(kls) / (len(y) * z.shape[1]) * (sum(signed) / len(y))
    return tail.sign * tail.weight * total / max(len(anchors), 1)


@pytest.mark.parametrize("tail", SETTINGS)
def test_value_and_gradient_are_those_of_the_loops(tail):
    z, y = example()
    ours, theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
    value, slow = tail(seen(ours, y)).mean(), loops(tail, theirs, y)
    assert value.item() == pytest.approx(slow.item(), rel=1e-12)
    value.backward()
    slow.backward()
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-10, atol=1e-14)
    assert ours.grad.abs().sum() > 0


def test_faithful_is_what_one_kl_over_batch_and_features_gives():
    """nn.KLDivLoss with its truthy legacy argument: one mean for all pairs of an anchor."""
    z, y = example()
    value = TAIL()(seen(z, y)).sum()
    v, anchors, total = (COUNTS.sum() / COUNTS).sqrt(), (y >= 7).nonzero().flatten(), 0.0
    for b in anchors:
        anchor = z[b].softmax(0).expand_as(z)
        kl = torch.nn.functional.kl_div(z.log_softmax(1), anchor, reduction="none").mean()
        total += kl * (torch.where(y == y[b], -1.0, 1.0) * (v[y[b]] + v[y])).mean()
    assert value.item() == pytest.approx(float(total / len(anchors)) * len(y), rel=1e-12)


def test_faithful_is_pairwise_over_the_width_where_all_pairs_have_one_sign():
    z, _ = example(size=9, width=5)
    y = torch.full((9,), 8)
    pairwise, faithful = (TAIL(reduction=r)(seen(z, y)).mean().item() for r in ("pairwise", "faithful"))
    assert faithful == pytest.approx(pairwise / 5, rel=1e-12)
    assert pairwise < 0, "images of one rare class part"


def test_no_gradient_reaches_the_anchor():
    z = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    TAIL(reduction="pairwise")(seen(z, torch.tensor([9, 0]))).mean().backward()
    assert z.grad[0].abs().max() < 1e-15
    assert z.grad[1].abs().max() > 1e-3


@pytest.mark.parametrize("tail", SETTINGS)
def test_without_a_rare_class_it_is_zero_and_so_is_its_gradient(tail):
    z = torch.randn(6, 5, requires_grad=True)
    value = tail(seen(z, torch.arange(6)))
    assert torch.equal(value, torch.zeros(6))
    value.mean().backward()
    assert torch.equal(z.grad, torch.zeros(6, 5))


@pytest.mark.parametrize("tail", SETTINGS)
def test_the_order_of_the_batch_plays_no_part(tail):
    z, y = example()
    order = torch.randperm(len(y))
    assert torch.allclose(tail(seen(z[order], y[order])), tail(seen(z, y))[order], rtol=1e-10)


def test_by_counts_the_names_of_the_classes_play_no_part():
    z, y = example()
    names = torch.randperm(10)
    counts = torch.empty_like(COUNTS)
    counts[names] = COUNTS
    by_counts = TAIL(rule="counts", reduction="pairwise")
    assert torch.allclose(by_counts(seen(z, names[y], counts)), by_counts(seen(z, y)), rtol=1e-10)
    assert by_counts(seen(z, y)).abs().sum() > 0


@pytest.mark.parametrize(
    ("classes", "rare"), [(10, [7, 8, 9]), (100, [*range(67, 100)]), (3, []), (4, [3]), (5, [3, 4]), (2, [1])]
)
@pytest.mark.parametrize("equal", [False, True])
def test_the_rare_classes_are_the_codes_and_by_counts_the_same_where_labels_are_sorted(classes, rare, equal):
    counts = torch.ones(classes).double() if equal else torch.arange(classes, 0, -1).double()
    for rule in ("index", "counts"):
        assert TAIL(rule=rule).rare(counts).nonzero().flatten().tolist() == rare
    if not equal:
        flipped = TAIL(rule="counts").rare(counts.flip(0))
        assert flipped.nonzero().flatten().tolist() == sorted(classes - 1 - k for k in rare)


def test_soft_labels_stand_for_their_likeliest_class():
    z, y = example()
    mixed = 0.7 * torch.nn.functional.one_hot(y, 10) + 0.3 * torch.nn.functional.one_hot((y + 1) % 10, 10)
    assert torch.equal(TAIL()(seen(z, mixed)), TAIL()(seen(z, y)))


def test_a_class_without_an_example_has_a_finite_weight():
    z, y = example()
    empty = COUNTS.clone()
    empty[9] = 0
    assert TAIL(reduction="pairwise")(seen(z, y, empty)).isfinite().all()


def test_images_of_several_attacks_are_one_batch():
    z, y = example(size=12)
    outer = seen(z, y[:6])
    both = seen(z, y[:6].repeat(2))
    assert torch.equal(TAIL(reduction="pairwise")(outer), TAIL(reduction="pairwise")(both))


@pytest.mark.parametrize("tail", SETTINGS)
def test_nothing_waits_for_the_device(tail):
    """Fake tensors have no values: whoever asks for one, or for rows of an unknown number, raises."""
    with FakeTensorMode():
        z, y = torch.empty(12, 7), torch.empty(12, dtype=torch.int64)
        assert tail(seen(z, y, torch.empty(10, dtype=torch.float64))).shape == (12,)


def test_bf16_autocast_keeps_the_difference_of_near_numbers():
    z, y = example(size=64, width=128)
    near = (z * 0.05).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = TAIL(reduction="pairwise")(seen(near, y)).mean()
    exact = TAIL(reduction="pairwise")(seen(near.double(), y)).mean()
    assert low.item() == pytest.approx(exact.item(), rel=1e-3)


def test_without_weight_no_features_are_asked_for():
    assert not TAIL(weight=0).features
    assert torch.equal(TAIL(weight=0)(replace(seen(*example()), features=None)), torch.zeros(12))
