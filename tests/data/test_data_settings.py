import pytest
import torch

from inure.data import Data
from inure.settings.config import build, dump
from inure.settings.errors import UserError


@pytest.fixture
def write(tmp_path, write_parquet, make_images):
    """``write(name, labels)``: a parquet file of 8 x 8 images."""

    def write(name, labels, **options):
        images = make_images(len(labels), options.pop("size", 8), seed=len(labels))
        return str(write_parquet(tmp_path / f"{name}.parquet", images, labels, **options))

    return write


def test_digits_are_the_default():
    train, validation = Data().load_training(None)
    assert (len(train), len(validation), len(Data().load_test(None))) == (1293, 144, 360)
    assert not set(train.index.tolist()) & set(validation.index.tolist())


def test_some_examples_are_taken_of_each_class_in_proportion():
    train, validation = Data(examples=200, validation=40).load_training(None)
    every = torch.cat([train.index, validation.index])
    assert (len(train), len(validation), len(every.unique())) == (160, 40, 200)
    counts = torch.bincount(torch.cat([train.labels, validation.labels]))
    assert counts.min() >= 19
    assert counts.max() <= 21
    assert len(Data(examples=10**6).load_training(None)[0]) == 1293
    with pytest.raises(UserError, match=r"data\.examples: got 1435"):
        Data(examples=1435).load_training(None)


def test_validation_is_cut_from_train_and_a_lone_validation_split_is_the_test_set(tmp_path, write):
    write("nette-train", [0, 1] * 10)
    write("nette-validation", [0, 1] * 3)
    data = Data(source=str(tmp_path), validation=4)
    train, validation = data.load_training(None)
    assert sorted([*train.index.tolist(), *validation.index.tolist()]) == list(range(20))
    assert torch.bincount(validation.labels).tolist() == [2, 2]
    assert len(data.load_test(None)) == 6
    assert data.load_test(None).hash != train.hash


def test_validation_may_be_a_spec(tmp_path, write):
    write("a-train", [0, 1] * 5)
    write("a-val", [0, 1] * 3)
    write("a-test", [0, 1] * 2)
    data = Data(source=str(tmp_path), validation=str(tmp_path))
    train, validation = data.load_training(None)
    assert (len(train), len(validation), len(data.load_test(None))) == (10, 6, 4)


def test_a_validation_spec_never_falls_back_on_test(tmp_path, write):
    write("a-train", [0, 1] * 5)
    write("a-test", [0, 1] * 2)
    with pytest.raises(UserError, match="data.validation: got no validation split"):
        Data(source=str(tmp_path), validation=str(tmp_path)).load_training(None)


def test_a_lone_file_is_tested_on_whole_and_tells_so_by_its_hash(write):
    lone = Data(source=write("all", [0, 1] * 10))
    training, _ = lone.load_training(None)
    assert len(training) == 18
    assert len(lone.load_test(None)) == 20
    assert lone.load_test(None).hash == training.hash


def test_an_explicit_split_leaves_the_others_for_the_test(tmp_path, write):
    write("a-train", [0, 1] * 5)
    write("a-test", [0, 1] * 2)
    assert len(Data(source=f"{tmp_path}#train").load_test(None)) == 4
    assert len(Data(source=f"{tmp_path}#test").load_test(None)) == 4


@pytest.mark.parametrize(
    ("train", "test", "match"),
    [
        ([0, 1] * 20, [0, 1, 2], "3 classes, where data.source has 2"),
        ([0, 1, 2, 3] * 10, [0, 1] * 20, "2 classes, where data.source has 4"),
    ],
)
def test_other_classes_in_the_test_set_are_refused(write, train, test, match):
    data = Data(source=write("a", train), test=write("b", test))
    with pytest.raises(UserError, match=match) as caught:
        data.load_training(None)
    assert caught.value.setting == "data.test"
    with pytest.raises(UserError, match=match):
        data.load_test(None)


def test_other_classes_in_the_validation_set_are_refused(write):
    data = Data(source=write("a", [0, 1] * 20), validation=write("b", [0, 2]))
    with pytest.raises(UserError, match="data.validation: got 3 classes"):
        data.load_training(None)


def test_named_classes_must_agree(write):
    source = write("a", [0, 1, 2] * 5, names=["cat", "dog", "emu"])
    with pytest.raises(UserError, match="2 classes, where data.source has 3"):
        Data(source=source, test=write("b", [0], names=["cat", "dog"])).load_test(None)
    with pytest.raises(UserError, match="in another order"):
        Data(source=source, test=write("c", [0], names=["dog", "cat", "emu"])).load_test(None)


def test_a_few_test_images_may_lack_a_class_by_chance(write):
    data = Data(source=write("a", [0, 1, 2] * 10), test=write("b", [0, 1, 0]))
    assert len(data.load_test(None)) == 3
    data.load_training(None)


def test_the_test_set_loads_where_the_training_images_are_gone(write):
    assert len(Data(source="gone.parquet", test=write("b", [0, 1])).load_test(None)) == 2


def test_gaps_in_unnamed_training_labels_are_refused(write):
    with pytest.raises(UserError, match="labels up to 2 but none of class 0"):
        Data(source=write("a", [1, 2] * 5)).load_training(None)
    Data(source=write("b", [1, 2] * 5, names="abc")).load_training(None)


def test_a_validation_set_of_another_shape_is_refused(write):
    data = Data(source=write("a", [0, 1] * 5), validation=write("b", [0, 1], size=10))
    with pytest.raises(UserError, match="data.validation: got images of"):
        data.load_training(None)
    assert data.load_training(8)[1].shape == (3, 8, 8)


def test_bad_images_are_skipped_on_request(tmp_path, write_parquet, make_images):
    path = write_parquet(tmp_path / "a.parquet", [*make_images(9), b"bad"], [0, 1] * 5)
    with pytest.raises(UserError, match="data.source: got a bad image in row 9"):
        Data(source=str(path)).load_training(None)
    train, validation = Data(source=str(path), skip_bad=True, validation=2).load_training(None)
    assert (len(train), len(validation), train.skipped) == (7, 2, 1)


@pytest.mark.parametrize(("given", "stored"), [("1/10", 0.1), (0.25, 0.25), (500, 500), ("500", 500), ("x/y", "x/y")])
def test_validation_is_a_number_or_a_spec(given, stored):
    data = build(Data, {"validation": given})
    assert data.validation == stored
    assert build(Data, dump(data)) == data


@pytest.mark.parametrize("given", [0, -0.1, 1.5, True, float("nan"), "", None, "0"])
def test_other_validations_are_refused(given):
    with pytest.raises(UserError, match="validation: got .*a fraction in"):
        build(Data, {"validation": given})


def test_some_classes_only_in_the_order_given_in_every_split():
    data = Data(classes=[7, "2", 4], validation=0.2)
    whole = Data(validation=0.2)
    train, validation = data.load_training(None)
    test = data.load_test(None)
    assert train.class_names == validation.class_names == test.class_names == ("7", "2", "4")
    for part, every in ((test, whole.load_test(None)),):
        rows = {int(i): int(y) for i, y in zip(every.index, every.labels, strict=True)}
        assert [(7, 2, 4)[y] for y in part.labels.tolist()] == [rows[i] for i in part.index.tolist()]
        assert len(part) == sum(y in (7, 2, 4) for y in every.labels.tolist())
    assert torch.bincount(train.labels).min() > 80
    assert len(train) + len(validation) < 500


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([1, 10], "data.classes: got 10; allowed names or numbers of its 10 classes: 0, ... 9"),
        (["one", 2], "data.classes: got one; allowed names or numbers of its 10 classes"),
        ([3, "3"], "data.classes: got [3, '3']; allowed classes that differ"),
    ],
)
def test_classes_that_do_not_exist_are_refused(classes, message):
    with pytest.raises(UserError) as error:
        Data(classes=classes).load_training(None)
    assert message in str(error.value)
