import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inure.data import stratified_split
from inure.settings.errors import UserError


@st.composite
def labels_and_count(draw):
    counts = draw(st.lists(st.integers(1, 30), min_size=1, max_size=6))
    spare = sum(counts) - len(counts)
    if spare == 0:
        counts[0] += 3
        spare = 3
    labels = np.repeat(np.arange(len(counts)) * 2, counts)
    draw(st.randoms(use_true_random=False)).shuffle(labels)
    return torch.from_numpy(labels), draw(st.integers(1, spare))


@given(labels_and_count())
def test_every_class_gives_its_exact_share_and_keeps_one(case):
    labels, size = case
    train, held_out = stratified_split(labels, size)
    assert len(held_out) == size
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(len(labels)))
    assert train.tolist() == sorted(train.tolist())
    assert held_out.tolist() == sorted(held_out.tolist())
    counts = torch.bincount(labels)
    quotas = size * counts / len(labels)
    given_away = torch.bincount(labels[held_out], minlength=len(counts))
    assert bool((given_away >= quotas.floor()).all())
    assert bool(((given_away < counts) | (counts == 0)).all())
    # A class that could not be rounded up, or it would have none to train on, leaves its place to another.
    if not bool((quotas.ceil() >= counts)[counts > 0].any()):
        assert bool((given_away <= quotas.ceil()).all())


@given(st.lists(st.integers(20, 60), min_size=2, max_size=5), st.floats(0.05, 0.5), st.integers(0, 5))
def test_a_fraction_is_proportional_within_one(counts, fraction, seed):
    labels = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
    _, held_out = stratified_split(labels, fraction, seed)
    assert len(held_out) == max(1, round(fraction * len(labels)))
    for label, count in enumerate(counts):
        quota = len(held_out) * count / len(labels)
        assert abs(int((labels[held_out] == label).sum()) - quota) < 1


def test_the_same_arguments_give_the_same_split_whatever_the_global_seed():
    labels = torch.arange(100) % 7
    torch.manual_seed(1)
    first = stratified_split(labels, 0.2)
    torch.manual_seed(2)
    np.random.seed(3)
    second = stratified_split(labels, 0.2)
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[1], stratified_split(labels, 0.2, seed=1)[1])


@pytest.mark.parametrize("size", [0, -1, 1.5, 95, 100, 1000, 0.99, float("nan")])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(UserError, match="data.validation: got .*fraction in"):
        stratified_split(torch.arange(100) % 7, size)


def test_a_count_may_leave_one_example_a_class():
    train, _ = stratified_split(torch.arange(100) % 7, 93)
    assert sorted((train % 7).tolist()) == list(range(7))
