import hashlib

import numpy as np
import pytest
import torch
from loading_checks import as_tensor, everything, refused
from sklearn.datasets import load_digits

from inure.data import load, load_labels


def test_digits_split_is_fixed_stratified_and_complete():
    train, test, both = load("digits", "train"), load("digits", "test"), load("digits", None)
    assert (len(train), len(test), len(both)) == (1437, 360, 1797)
    assert train.shape == (1, 8, 8)
    expected = torch.from_numpy(np.round(load_digits().images * 255 / 16).astype(np.uint8))
    assert torch.equal(everything(both)[:, 0], expected)
    assert sum(image.sum() for image in (everything(train).long(), everything(test).long())) == expected.long().sum()
    shares = torch.bincount(test.labels) / torch.bincount(both.labels)
    assert float((shares - 360 / 1797).abs().max()) < 1 / 170
    assert test.index.tolist() == list(range(360))
    assert torch.equal(everything(load("digits#test", "train")), everything(test))


def test_digits_can_be_resized():
    assert load("digits", "test", img_size=16).shape == (1, 16, 16)


def test_a_folder_of_parquet_has_the_splits_of_its_file_names(splits):
    folder, images = splits
    train = load(str(folder), "train")
    assert torch.equal(everything(train), as_tensor(images[:10]))
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert train.index.tolist() == list(range(10))
    assert train.name == str(folder)
    assert torch.equal(everything(load(str(folder), "test")), as_tensor(images[10:]))
    assert len(load(str(folder), None)) == 16
    assert len(load(f"{folder}#test", "train")) == 6
    assert len(load(f"{folder}/*.parquet", "train")) == 10
    assert len(load(f"{folder}/pets-train*", "test")) == 10
    assert load_labels(str(folder), "test")[0].tolist() == [0, 1, 2] * 2


def test_the_hash_of_one_file_is_its_sha256(splits):
    file = splits[0] / "pets-test-00000-of-00001.parquet"
    assert load(str(file), None).hash == hashlib.sha256(file.read_bytes()).hexdigest()


def test_validation_stands_in_for_test(tmp_path, write_parquet, make_images):
    for split, n in (("train", 4), ("val", 3)):
        write_parquet(tmp_path / split / "0000.parquet", make_images(n), [0] * n)
    assert len(load(str(tmp_path), "test")) == 3
    assert len(load(f"{tmp_path}#validation", None)) == len(load(f"{tmp_path}#val", None)) == 3


def test_a_lone_file_is_whatever_split_is_wanted(tmp_path, write_parquet, make_images):
    path = write_parquet(tmp_path / "a-test.parquet", make_images(3), [0, 1, 1])
    assert len(load(str(path), "train")) == len(load(str(tmp_path), "train")) == len(load(str(path), None)) == 3


def test_a_split_that_is_not_there_lists_those_that_are(splits):
    folder, _ = splits
    assert f"{folder}#test | {folder}#train" in refused("another split", f"{folder}#validation")
    message = refused("no validation split", folder, "validation")
    assert f"{folder}#train" in message
    refused("allowed .* alone: its names tell no split", _renamed(folder), "train")


def _renamed(folder):
    path = folder / "plain.parquet"
    (folder / "pets-test-00000-of-00001.parquet").rename(path)
    return f"{path}#train"


def test_a_folder_of_several_data_sets_is_refused_with_globs_that_work(tmp_path, write_parquet, make_images):
    for name in ("cifar10-train", "cifar10-test", "cifar100-train", "cifar100-test", "other"):
        write_parquet(tmp_path / f"{name}.parquet", make_images(2), [0, 1])
    message = refused("mixes 3 data sets", tmp_path)
    remedies = message.split("; try ")[1].split(" or ")
    assert remedies == [f"{tmp_path}/cifar10-*.parquet", f"{tmp_path}/cifar100-*.parquet", f"{tmp_path}/other.parquet"]
    for remedy in remedies:
        assert len(load(remedy, "train")) == 2


def test_shards_of_the_hub_are_one_data_set(tmp_path, write_parquet, make_images):
    for name in (
        "data/train-00000-of-00002-1f3a.parquet",
        "data/train-00001-of-00002-77bc.parquet",
        "data/test-0.parquet",
    ):
        write_parquet(tmp_path / name, make_images(2), [0, 1])
    write_parquet(tmp_path / ".cache/old-train.parquet", make_images(2), [0, 1])
    assert len(load(str(tmp_path), "train")) == 4


def test_data_sets_in_subfolders_are_told_apart(tmp_path, write_parquet, make_images):
    for name in ("a/train/0000.parquet", "a/test/0000.parquet", "b/train/0000.parquet", "b/test/0000.parquet"):
        write_parquet(tmp_path / name, make_images(2), [0, 1])
    assert f"try {tmp_path}/a or {tmp_path}/b" in refused("mixes 2 data sets", tmp_path)
    assert len(load(f"{tmp_path}/a", "train")) == 2


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(("image", "label"), [("image", "label"), ("img", "fine_label")])
def test_columns_are_found_by_themselves(tmp_path, write_parquet, make_images, raw, image, label):
    path = write_parquet(tmp_path / "a.parquet", make_images(3), [2, 0, 1], image=image, label=label, raw=raw)
    images = load(str(path), None)
    assert torch.equal(everything(images), as_tensor(make_images(3)))
    assert images.labels.tolist() == [2, 0, 1]
    assert images.class_names == ("0", "1", "2")


def test_class_names_come_from_the_metadata(tmp_path, write_parquet, make_images):
    names = ("cat", "dog", "emu")
    path = write_parquet(tmp_path / "a.parquet", make_images(2), [0, 1], names=names)
    assert load(str(path), None).class_names == names


def test_real_data_loads(shared_data):
    test = load(f"{shared_data}/cifar10-*.parquet", "test", memory_limit=1 << 23)
    assert (len(test), test.shape, test.num_classes) == (10_000, (3, 32, 32), 10)
    message = refused("mixes 2 data sets", shared_data)
    assert f"{shared_data}/cifar10-*.parquet or {shared_data}/imagenette64-*.parquet" in message
    lazy = load(f"{shared_data}/imagenette64-*.parquet", "test", memory_limit=1 << 23)
    assert (len(lazy), lazy.shape, lazy.in_memory) == (3925, (3, 64, 64), False)
    rows = torch.tensor([5, 3000])
    assert torch.equal(lazy.batch(rows)[1:], lazy.subset(rows).batch(torch.tensor([1])))
