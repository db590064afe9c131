import torch
from loading_checks import as_tensor, everything, refused

from inure.data import load


def test_an_image_folder_with_splits(tmp_path, write_folder, make_images):
    a, b, c, d = make_images(3), make_images(2, seed=1), make_images(1, seed=2), make_images(2, seed=3)
    root = tmp_path / "pets [x]"
    write_folder(root, {"train/cat": a, "train/test": b, "val/test": c, "val/cat": d})
    train = load(str(root), "train")
    assert train.class_names == ("cat", "test")
    assert train.labels.tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(everything(train), as_tensor([*a, *b]))
    test = load(str(root), "test")
    assert test.labels.tolist() == [0, 0, 1]
    assert test.hash != train.hash == load(str(root), "train").hash
    assert torch.equal(everything(test), as_tensor([*d, *c]))
    refused("another split", f"{root}#test")


def test_an_image_folder_without_splits_is_one(tmp_path, write_folder, make_images):
    write_folder(tmp_path, {"b": make_images(2), "a": make_images(1, seed=1)})
    images = load(str(tmp_path), "test")
    assert images.class_names == ("a", "b")
    assert images.labels.tolist() == [0, 1, 1]
    assert not load(str(tmp_path), "test", memory_limit=0).in_memory


def test_a_new_image_in_a_folder_is_seen(tmp_path, write_folder, make_images):
    write_folder(tmp_path, {"a": make_images(2), "b": make_images(2)})
    assert len(load(str(tmp_path), None)) == 4
    write_folder(tmp_path, {"a": make_images(3, seed=1), "b": make_images(2)})
    images = load(str(tmp_path), None)
    assert torch.equal(everything(images), as_tensor([*make_images(3, seed=1), *make_images(2)]))


def test_a_test_split_of_one_class_has_its_label(tmp_path, write_folder, make_images):
    write_folder(tmp_path, {"train/a": make_images(1), "train/b": make_images(1), "test/b": make_images(2)})
    assert load(str(tmp_path), "test").labels.tolist() == [1, 1]


def test_bad_files_in_a_folder_are_named_or_skipped(tmp_path, write_folder, make_images):
    write_folder(tmp_path, {"a": [*make_images(2), b"bad"], "b": make_images(2)})
    refused(r"bad image in .*a/2\.png", tmp_path)
    images = load(str(tmp_path), None, skip_bad=True)
    assert (images.skipped, images.index.tolist()) == (1, [0, 1, 3, 4])


def test_folders_without_classes_are_refused(tmp_path, write_folder, make_images):
    write_folder(tmp_path / "flat", {"": make_images(2)})
    refused("without class subfolders", tmp_path / "flat")
    write_folder(tmp_path / "more", {"train/a": make_images(1), "train/b": make_images(1), "test/c": make_images(1)})
    refused("class 'c' in the test split", tmp_path / "more")


def test_hub_sets_are_read_through_datasets(monkeypatch, make_images, encode):
    import datasets

    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])})
    arrays = make_images(5)

    def part(rows):
        cells = [{"bytes": encode(arrays[i]), "path": None} for i in rows]
        return datasets.Dataset.from_dict({"img": cells, "label": [i % 2 for i in rows]}, features=features)

    found = datasets.DatasetDict({"train": part([0, 1, 2]), "validation": part([3, 4])})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: found)
    train = load("hub:someone/pets", "train")
    assert torch.equal(everything(train), as_tensor(arrays[:3]))
    assert train.class_names == ("x", "y")
    assert train.name == "hub:someone/pets"
    assert load("hub:someone/pets", "test").labels.tolist() == [1, 0]
    refused("hub:someone/pets#train", "hub:someone/pets#test")


def test_a_hub_out_of_reach_is_one_clear_line(monkeypatch):
    import datasets

    def fail(name):
        raise ConnectionError(f"Couldn't reach {name!r} on the Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    refused("hub:someone/else, which could not be loaded .ConnectionError: Couldn't reach", "hub:someone/else")
    refused("allowed hub:OWNER/NAME", "hub:mnist")
