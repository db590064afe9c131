import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inure.data import Data, ImageSet, stratified_split
from inure.data.chosen_rows import FILE, read_rows, write_rows
from inure.data.long_tailed import Counts, Exponential, Pareto, Rows, Step, choose, keep, tail_counts
from inure.data.record import remarks
from inure.settings.config import build, dump
from inure.settings.errors import UserError

CIFAR10 = {
    10: "5000 3871 2997 2320 1796 1391 1077 834 645 500",
    20: "5000 3584 2569 1842 1320 946 678 486 348 250",
    50: "5000 3237 2096 1357 878 568 368 238 154 100",
    100: "5000 2997 1796 1077 645 387 232 139 83 50",
}
"""Counts of the published code, as listed in several papers' repositories."""
CIFAR100 = {10: ([500, 488, 477], [52, 51, 50], 19573), 20: ([500, 485, 470], [26, 25, 25], 15907),
            50: ([500, 480, 462], [10, 10, 10], 12608)}  # fmt: skip


def images_of(counts, names=None):
    labels = torch.from_numpy(np.random.RandomState(0).permutation(np.repeat(np.arange(len(counts)), counts)))
    return ImageSet.from_arrays(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels, names)


def names(classes):
    return [str(k) for k in range(classes)]


@pytest.mark.parametrize("ratio", CIFAR10)
def test_ten_classes_have_the_published_counts(ratio):
    expected = [int(count) for count in CIFAR10[ratio].split()]
    assert tail_counts(Exponential(ratio=ratio), [5000] * 10, names(10)) == expected


@pytest.mark.parametrize("ratio", CIFAR100)
def test_a_hundred_classes_have_the_published_counts(ratio):
    counts = tail_counts(Exponential(ratio=ratio), [500] * 100, names(100))
    assert (counts[:3], counts[-3:], sum(counts)) == CIFAR100[ratio]


def test_a_step_keeps_half_of_the_classes_whole():
    assert tail_counts(Step(ratio=100), [5000] * 10, names(10)) == [5000] * 5 + [50] * 5
    assert tail_counts(Step(ratio=10), [30] * 5, names(5)) == [30, 30, 3, 3, 3]


def test_a_power_law_ends_at_the_ratio_and_is_straight_in_logarithms():
    assert tail_counts(Pareto(ratio=50), [5000] * 10, names(10))[-1] == 100
    counts = tail_counts(Pareto(ratio=50), [5_000_000] * 10, names(10))
    assert (counts[0], counts[-1]) == (5_000_000, 100_000)
    slopes = np.diff(np.log(counts)) / np.diff(np.log(np.arange(1, 11)))
    assert np.allclose(slopes, -np.log(50) / np.log(10), atol=1e-3)


@given(st.sampled_from([Exponential, Step, Pareto]), st.integers(2, 40), st.integers(20, 300), st.floats(1, 20))
def test_every_profile_falls_from_the_most_to_the_most_over_the_ratio(profile, classes, most, ratio):
    counts = tail_counts(profile(ratio=ratio), [most] * classes, names(classes))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == most
    assert counts[-1] in (int(most / ratio), int(most * (1 / ratio)))
    assert tail_counts(profile(ratio=1), [most] * classes, names(classes)) == [most] * classes


def test_the_order_of_the_classes_may_be_given_or_random():
    images = images_of([40] * 4, ("ant", "bee", "cat", "dog"))
    given_order = Exponential(ratio=10, order=["dog", 1, "ant", 2])
    assert tail_counts(given_order, [40] * 4, images.class_names) == [8, 18, 4, 40]
    randoms = [tail_counts(Exponential(ratio=10, order="random", seed=s), [40] * 4, names(4)) for s in range(8)]
    assert all(sorted(counts) == [4, 8, 18, 40] for counts in randoms)
    assert len({tuple(counts) for counts in randoms}) > 2
    with pytest.raises(UserError, match=r"data\.long_tail\.order: got 2 classes, without cat"):
        choose(Exponential(order=["dog", "ant"]), images_of([9] * 3, ("dog", "ant", "cat")))
    with pytest.raises(UserError, match=r"data\.long_tail\.order: got emu"):
        choose(Exponential(order=["emu", "ant", "bee", "cat"]), images)


def test_the_rows_are_those_of_the_published_code():
    labels = torch.from_numpy(np.random.RandomState(3).permutation(np.repeat(np.arange(4), 30)))
    counts = [30, 12, 5, 1]
    state = np.random.get_state()
    np.random.seed(0)  # the global generator, as there
    expected = []
    for label in np.unique(labels.numpy()):
        rows = np.where(labels.numpy() == label)[0]
        np.random.shuffle(rows)
        expected.append(rows[: counts[label]])
    np.random.set_state(state)
    kept = keep(labels, counts, seed=0)
    assert sorted(kept.tolist()) == sorted(np.concatenate(expected).tolist())
    assert labels[kept].tolist() == sorted(labels[kept].tolist())
    assert not torch.equal(kept, keep(labels, counts, seed=1))


def test_a_steeper_tail_keeps_a_part_of_a_flatter_one():
    images = images_of([50] * 5)
    flat, steep = (choose(Exponential(ratio=ratio), images) for ratio in (2, 10))
    assert set(steep.tolist()) < set(flat.tolist())


def test_an_uneven_source_gives_the_most_that_every_class_has():
    images = images_of([30, 22, 25])
    assert torch.bincount(images.labels[choose(Exponential(ratio=1), images)]).tolist() == [22, 22, 22]
    fitting = Exponential(ratio=4, examples=30, order=[0, 2, 1])
    assert torch.bincount(images.labels[choose(fitting, images)]).tolist() == [30, 7, 15]


@pytest.mark.parametrize(
    ("tail", "match"),
    [
        (Exponential(ratio=2, examples=30), r"long_tail\.examples: got 30: class 1 would keep 21 images and has 20"),
        (Exponential(ratio=100), r"long_tail\.ratio: got 100: where the first class keeps 20 images, class 2 would"),
        (Counts(counts=[30, 21, 1]), r"long_tail\.counts: got 21 for class 1; allowed at most 20"),
        (Counts(counts=[30, 20]), r"long_tail\.counts: got 2 numbers; allowed 3 numbers"),
    ],
)
def test_counts_that_are_not_there_are_refused_not_capped(tail, match):
    with pytest.raises(UserError, match=match):
        choose(tail, images_of([30, 20, 25]))


def test_a_class_named_but_empty_is_told():
    images = images_of([30, 20], ("ant", "bee", "cat"))
    with pytest.raises(UserError, match="class ant would keep none"):
        choose(Exponential(ratio=2), images)


@pytest.mark.parametrize(
    "tree",
    [
        {"kind": "exp", "ratio": 0.5},
        {"kind": "exp", "order": "sorted"},
        {"kind": "counts"},
        {"kind": "counts", "counts": [3, 0]},
        {"kind": "exp", "seed": -1},
        {"kind": "zipf"},
        {"ratio": 10},
    ],
)
def test_wrong_settings_are_refused(tree):
    with pytest.raises(UserError, match="long_tail"):
        build(Data, {"long_tail": tree})


@pytest.mark.parametrize(
    "tail",
    [Exponential(ratio=20, order=[1, "0"]), Step(order="random"), Pareto(), Counts(counts=[3, 2]), Rows(rows="a.json")],
)
def test_settings_survive_a_recipe(tail):
    data = Data(long_tail=tail)
    assert build(Data, dump(data)) == data


def test_training_is_long_tailed_and_the_test_split_is_not():
    data = Data(long_tail={"kind": "exp", "ratio": 20})
    training, validation = data.load_training(None)
    plain = Data()
    every = torch.cat([training.labels, validation.labels])
    assert torch.bincount(every).tolist() == tail_counts(Exponential(ratio=20), [139] * 10, names(10))
    assert not set(training.index.tolist()) & set(validation.index.tolist())
    assert bool((torch.bincount(validation.labels, minlength=10) >= 1).all())
    assert bool((torch.bincount(training.labels, minlength=10) >= 1).all())
    test, untouched = data.load_test(None), plain.load_test(None)
    assert torch.equal(test.index, untouched.index)
    assert torch.equal(test.batch(torch.arange(9)), untouched.batch(torch.arange(9)))
    again, _ = data.load_training(None)
    assert torch.equal(training.index, again.index)
    # Rows of the source hold the pixels that its rows hold.
    whole = torch.cat([part.index for part in plain.load_training(None)])
    assert set(training.index.tolist()) < set(whole.tolist())


@pytest.mark.parametrize(
    ("classes", "line"),
    [
        (None, "long tail: 9 images of class 1 to 2 of class 0, 11 to train on"),
        (["cat", "tabby dog"], "long tail: 9 images of tabby dog to 2 of cat, 11 to train on"),
    ],
)
def test_the_ends_of_a_tail_are_told_by_name_or_as_classes(classes, line):
    training, validation = images_of([2, 9], classes), images_of([3, 0], classes or ["0", "1"])
    said = remarks(Data(long_tail={"kind": "counts", "counts": [2, 9]}), training, validation)
    absent = "tabby dog" if classes else "class 1"
    assert said == [line, f"warning: no image to validate on in 1 of 2 classes ({absent})"]


@given(st.lists(st.integers(1, 12), min_size=2, max_size=8), st.data())
def test_every_class_of_two_gives_one_where_that_is_asked_for(counts, data):
    labels = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
    spare = sum(counts) - len(counts)
    able = sum(count >= 2 for count in counts)
    if spare == 0:
        return
    size = data.draw(st.integers(able, spare))
    train, held_out = stratified_split(labels, size, every_class=True)
    assert len(held_out) == size
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(len(labels)))
    given_away = torch.bincount(labels[held_out], minlength=len(counts)).tolist()
    assert all((given >= 1) == (count >= 2) for given, count in zip(given_away, counts, strict=True))
    assert all(given < count for given, count in zip(given_away, counts, strict=True))


def test_a_class_of_one_image_is_trained_on():
    data = Data(long_tail={"kind": "counts", "counts": [40, 1, 1, 2, 3, 9, 20, 30, 1, 50]})
    training, validation = data.load_training(None)
    assert torch.bincount(training.labels, minlength=10).min() == 1
    assert [int((validation.labels == k).sum()) for k in (1, 2, 8)] == [0, 0, 0]
    assert [int((validation.labels == k).sum()) for k in (3, 4, 5)] == [1, 1, 1]


def test_a_run_can_take_the_images_of_another(tmp_path):
    first = Data(long_tail={"kind": "exp", "ratio": 20, "order": "random", "seed": 5})
    training, validation = first.load_training(None)
    digest = write_rows(tmp_path / FILE, training, validation)
    assert write_rows(tmp_path / "again" / FILE, training, validation) == digest
    for place in (tmp_path, tmp_path / FILE):
        again = Data(long_tail=Rows(rows=str(place))).load_training(None)
        assert torch.equal(again[0].index, training.index)
        assert torch.equal(again[1].index, validation.index)
    rows, labels = read_rows(str(tmp_path), "key")
    assert len(rows) == len(labels) == len(training) + len(validation)
    other = Data(long_tail={"kind": "exp", "ratio": 20, "seed": 6}).load_training(None)
    assert write_rows(tmp_path / "other" / FILE, *other) != digest


def test_a_list_of_rows_is_taken_too(tmp_path):
    chosen = Data().load_training(None)[0].index[:40]
    (tmp_path / "rows.json").write_text(json.dumps(chosen.flip(0).tolist()))
    training, validation = Data(long_tail=Rows(rows=str(tmp_path / "rows.json")), validation=10).load_training(None)
    assert sorted(torch.cat([training.index, validation.index]).tolist()) == sorted(chosen.tolist())


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("[1, 99999]", "1 are not in data.source"),
        ("[3, 3]", "a row twice"),
        ("[]", "no row"),
        ('{"a": 1}', "no list of whole numbers"),
        ("[true]", "no list of whole numbers"),
        ("[1,", "unreadable"),
    ],
)
def test_files_of_other_things_are_refused(tmp_path, content, match):
    path = tmp_path / "rows.json"
    path.write_text(content)
    with pytest.raises(UserError, match=match) as caught:
        Data(long_tail=Rows(rows=str(path))).load_training(None)
    assert caught.value.setting == "data.long_tail.rows"
    with pytest.raises(UserError, match="not there"):
        read_rows(str(tmp_path / "absent.safetensors"), "key")


def test_rows_of_other_images_are_told_by_their_labels(tmp_path):
    training, validation = Data(long_tail={"kind": "exp", "ratio": 5}).load_training(None)
    write_rows(tmp_path / FILE, training, validation)
    with pytest.raises(UserError, match="have other labels in data.source"):
        Data(long_tail=Rows(rows=str(tmp_path)), classes=[9, 8, 7, 6, 5, 4, 3, 2, 1, 0]).load_training(None)


@pytest.mark.slow
def test_the_real_data_has_the_published_counts(shared_data):
    data = Data(source=str(shared_data / "cifar10-train.parquet"), long_tail={"kind": "exp", "ratio": 50})
    training, validation = data.load_training(None)
    counts = torch.bincount(torch.cat([training.labels, validation.labels])).tolist()
    assert counts == [int(count) for count in CIFAR10[50].split()]
