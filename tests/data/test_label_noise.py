import numpy as np
import pytest
import torch

from inure.data import Data, ImageSet
from inure.data.label_noise import Asymmetric, Symmetric, SymmetricExcluding, corrupt
from inure.settings.config import build, dump
from inure.settings.errors import UserError

NAMES = ("ant", "bee", "cat", "dog")
EVERY = [Symmetric, SymmetricExcluding, Asymmetric]


def images(count=4000, classes=4):
    labels = torch.arange(count) % classes
    return ImageSet.from_arrays(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), labels, NAMES[:classes])


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("rate", [0, 0.3, 1])
def test_rows_of_the_transition_sum_to_one(kind, rate):
    transition = kind(rate=rate).transition(NAMES)
    assert np.allclose(transition.sum(1), 1)
    assert transition.min() >= 0
    if rate == 0:
        assert np.array_equal(transition, np.eye(4))


def test_the_three_kinds_are_as_defined():
    assert np.allclose(Symmetric(rate=1).transition(NAMES), 0.25)
    assert np.allclose(Symmetric(rate=0.4).transition(NAMES), 0.1 + 0.6 * np.eye(4))
    excluding = SymmetricExcluding(rate=0.3).transition(NAMES)
    assert np.allclose(np.diag(excluding), 0.7)
    assert np.allclose(excluding[~np.eye(4, dtype=bool)], 0.1)
    next_class = Asymmetric(rate=0.25).transition(NAMES)
    assert np.allclose(np.diag(next_class), 0.75)
    assert [next_class[k, (k + 1) % 4] for k in range(4)] == [0.25] * 4


def test_pairs_and_matrices_say_which_class_is_mistaken_for_which():
    pairs = Asymmetric(rate=0.5, pairs=[["cat", "dog"], [0, "bee"]]).transition(NAMES)
    assert np.allclose(pairs, [[0.5, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0, 1]])
    matrix = [[0, 1, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 1, 0], [0.25] * 4]
    assert np.allclose(Asymmetric(rate=1, matrix=matrix).transition(NAMES), matrix)
    assert np.allclose(Asymmetric(rate=0.5, matrix=matrix).transition(NAMES), (np.eye(4) + np.array(matrix)) / 2)


@pytest.mark.parametrize("noise", [Symmetric(rate=0.4), SymmetricExcluding(rate=0.4), Asymmetric(rate=0.4)])
def test_labels_follow_the_transition(noise):
    clean = images(40_000)
    noisy = corrupt(noise, clean)
    pairs = torch.stack([noisy.true_labels, noisy.labels])
    found = np.zeros((4, 4))
    np.add.at(found, tuple(pairs.numpy()), 1 / 10_000)
    assert np.abs(found - noise.transition(NAMES)).max() < 5 * np.sqrt(0.25 / 10_000)
    assert torch.equal(noisy.true_labels, clean.labels)
    assert torch.equal(clean.labels, torch.arange(40_000) % 4)
    assert torch.equal(noisy.index, clean.index)


def test_no_noise_changes_nothing_and_full_noise_of_one_pair_changes_all_of_it():
    assert torch.equal(corrupt(Symmetric(rate=0), images()).labels, images().labels)
    moved = corrupt(Asymmetric(rate=1), images())
    assert torch.equal(moved.labels, (images().labels + 1) % 4)


def test_the_seed_decides_and_an_image_keeps_its_label_in_any_subset():
    noise = Symmetric(rate=0.5, seed=3)
    noisy = corrupt(noise, images())
    rows = torch.arange(0, 4000, 7).flip(0)
    assert torch.equal(corrupt(noise, images().subset(rows)).labels, noisy.subset(rows).labels)
    assert torch.equal(noisy.subset(rows).true_labels, images().labels[rows])
    assert torch.equal(noisy.head(5).true_labels, images().labels[:5])
    torch.manual_seed(5)
    np.random.seed(5)
    assert torch.equal(corrupt(noise, images()).labels, noisy.labels)
    assert not torch.equal(corrupt(Symmetric(rate=0.5, seed=4), images()).labels, noisy.labels)


def test_only_training_labels_are_changed():
    data, clean = Data(label_noise=Symmetric(rate=1)), Data()
    training, validation = data.load_training(None)
    true, kept = clean.load_training(None)
    assert torch.equal(training.true_labels, true.labels)
    assert 0.8 < float((training.labels != true.labels).double().mean()) < 0.97
    assert torch.equal(validation.labels, kept.labels)
    assert validation.true_labels is None
    assert torch.equal(data.load_test(None).labels, clean.load_test(None).labels)


def test_noise_comes_after_the_long_tail():
    tail = {"kind": "exp", "ratio": 20}
    training, _ = Data(long_tail=tail, label_noise=Symmetric(rate=0.5)).load_training(None)
    clean, _ = Data(long_tail=tail).load_training(None)
    assert torch.equal(training.index, clean.index)
    assert torch.equal(training.true_labels, clean.labels)
    every, _ = Data(label_noise=Symmetric(rate=0.5)).load_training(None)
    label_of = dict(zip(every.index.tolist(), every.labels.tolist(), strict=True))
    shared = [(label_of[i], y) for i, y in zip(training.index.tolist(), training.labels.tolist(), strict=True)
              if i in label_of]  # fmt: skip
    assert len(shared) > 100
    assert all(ours == theirs for ours, theirs in shared)


@pytest.mark.parametrize(
    ("noise", "match"),
    [
        (Asymmetric(pairs=[["cat", "emu"]]), r"label_noise\.pairs: got emu"),
        (Asymmetric(pairs=[["cat", "dog"], ["cat", "ant"]]), r"label_noise\.pairs.*classes that differ"),
        (Asymmetric(matrix=[[1, 0], [0, 1]]), r"label_noise\.matrix: got 2 rows of 2"),
        (Asymmetric(matrix=[[0.5] * 4] * 4), r"label_noise\.matrix: got a row that sums to 2"),
    ],
)
def test_settings_of_other_classes_are_refused(noise, match):
    with pytest.raises(UserError, match=match):
        corrupt(noise, images())


@pytest.mark.parametrize(
    "tree",
    [
        {"kind": "symmetric", "rate": 1.1},
        {"kind": "asymmetric", "pairs": [["a"]]},
        {"kind": "asymmetric", "pairs": [[0, 1]], "matrix": [[1]]},
        {"kind": "uniform"},
    ],
)
def test_wrong_settings_are_refused(tree):
    with pytest.raises(UserError, match="label_noise"):
        build(Data, {"label_noise": tree})


@pytest.mark.parametrize("noise", [Symmetric(), SymmetricExcluding(), Asymmetric(pairs=[["cat", 3]])])
def test_settings_survive_a_recipe(noise):
    data = Data(label_noise=noise)
    assert build(Data, dump(data)) == data
