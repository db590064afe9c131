"""Metrics of kernels: their identities and values known by hand."""

import math

import pytest
import torch

from inure.kernels import (
    alignment,
    centred,
    effective_rank,
    kernel_distance,
    kernel_velocity,
    specialisation,
    specialisation_score,
    spectrum,
    top_mass,
    top_share,
)


def gram(seed: int, count: int = 8, features: int = 5, kernels: int | None = None):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, features) if kernels is None else (kernels, count, features)
    factor = torch.rand(shape, generator=generator, dtype=torch.float64)
    return factor @ factor.mT


def test_the_distance_of_a_kernel_to_itself_and_its_multiples_is_zero():
    k = gram(0)
    for scale in (1, 1e-30, 3, 1e200):
        assert kernel_distance(k, scale * k) < 1e-14
    assert kernel_distance(k.float() * 1e-30, k.float()) < 1e-6


def test_the_distance_of_positive_kernels_is_between_zero_and_one():
    for seed in range(20):
        assert 0 < kernel_distance(gram(seed), gram(seed + 100)) < 1
    first, second = torch.zeros(2, 4, 4)
    first[0, 0], second[1, 1] = 5, 1
    assert kernel_distance(first, second) == 1  # no image has a gradient in both
    assert kernel_distance(torch.zeros(4, 4), first) == 1


def test_a_rotation_of_a_rank_one_kernel_has_the_distance_of_its_angle():
    a, b = torch.tensor([1.0, 0]), torch.tensor([math.cos(0.3), math.sin(0.3)])
    found = kernel_distance(a.outer(a), b.outer(b))
    assert float(found) == pytest.approx(1 - math.cos(0.3) ** 2, rel=1e-6)
    assert float(kernel_velocity(a.outer(a), b.outer(b), 5)) == pytest.approx(float(found) / 5)


def test_effective_rank_counts_the_directions():
    assert float(effective_rank(spectrum(torch.eye(7)))) == pytest.approx(7)
    ones = torch.ones(7, 7)
    assert float(effective_rank(spectrum(ones))) == pytest.approx(1)
    k = gram(1)
    assert float(effective_rank(spectrum(1e6 * k))) == pytest.approx(float(effective_rank(spectrum(k))))
    assert float(effective_rank(spectrum(torch.diag(torch.tensor([2.0, 2, 0, 0]))))) == pytest.approx(2)


def test_the_spectrum_is_sorted_and_never_negative():
    found = spectrum(torch.diag(torch.tensor([3.0, -1e-7, 4, 0])))
    assert found.tolist() == [4, 3, 0, 0]
    assert float(top_share(found)) == pytest.approx(4 / 7)
    assert float(top_mass(found, 1)) == pytest.approx(16 / 25)
    assert float(top_mass(found, 2)) == float(top_mass(found, 10)) == pytest.approx(1)


def test_top_mass_of_all_directions_is_the_frobenius_norm():
    k = gram(2)
    values = spectrum(k)
    assert float((values**2).sum()) == pytest.approx(float((k**2).sum()))
    assert float(top_mass(values, 3)) == pytest.approx(float((values[:3] ** 2).sum() / (k**2).sum()))


def test_a_centred_kernel_is_that_of_centred_features():
    features = torch.rand(6, 3, dtype=torch.float64)
    moved = features - features.mean(0)
    assert torch.allclose(centred(features @ features.T), moved @ moved.T)
    assert torch.allclose(centred(features @ features.T + 100), moved @ moved.T)


def test_the_alignment_of_a_kernel_with_its_own_labels_is_one():
    y = torch.tensor([1.0, 1, 0, 0])
    assert float(alignment(y.outer(y), y)) == pytest.approx(1)
    assert float(alignment(5 * y.outer(y) + 3, 2 * y + 7)) == pytest.approx(1)
    across = torch.tensor([1.0, 0, 1, 0])
    assert float(alignment(across.outer(across), y)) == pytest.approx(0, abs=1e-12)


def test_columns_of_the_specialisation_have_mean_one():
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    found = specialisation(gram(3, kernels=4), labels)
    assert torch.allclose(found.mean(0), torch.ones(4).double())


def test_logits_that_share_a_kernel_do_not_specialise():
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    shared = gram(4).expand(4, 8, 8)
    assert torch.allclose(specialisation(shared, labels), torch.ones(4, 4).double())
    assert float(specialisation_score(shared, labels)) == pytest.approx(1)


def test_logits_that_see_their_own_class_alone_specialise_fully():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    targets = torch.nn.functional.one_hot(labels, 3).double()
    own = torch.stack([target.outer(target) for target in targets.T])
    found = specialisation(own, labels)
    # one-hot targets of 3 equal classes, centred, have cosine -1/2 with each other
    assert torch.allclose(found.diagonal(), torch.full((3,), 3 / (1 + 2 * 0.25)).double())
    assert torch.allclose(found.fill_diagonal_(0).sum(0), torch.full((3,), 6 * 0.25 / 1.5).double())


def test_a_class_without_images_is_left_out():
    labels = torch.tensor([0, 0, 1, 1, 3, 3, 3, 3])
    found = specialisation(gram(5, kernels=4), labels)
    assert found[:, 2].isnan().all()
    assert not found[:, [0, 1, 3]].isnan().any()
    assert float(specialisation_score(gram(5, kernels=4), labels)) == pytest.approx(
        float(found.diagonal()[[0, 1, 3]].mean())
    )
    assert specialisation_score(gram(5, kernels=4), torch.zeros(8, dtype=torch.int64)).isnan()
