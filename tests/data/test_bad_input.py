import pyarrow as pa
import pytest
import torch
from loading_checks import as_tensor, everything, refused

from inure.data import load


def test_missing_places_name_their_neighbours(splits, tmp_path, monkeypatch):
    folder, _ = splits
    message = refused("not there", folder / "pets-trian-00000-of-00002.parquet")
    assert "pets-train-00000-of-00002.parquet" in message
    assert "pets-test" in refused("not there", folder / "pest-test*.parquet")
    assert str(folder) in refused("not there", f"{str(folder)[:-1]}/x/y/z.parquet")
    monkeypatch.chdir(tmp_path)
    assert refused("not there", "digist").endswith("try digits")
    (tmp_path / "a.csv").write_text("1")
    refused("a file that is not parquet", tmp_path / "a.csv")


@pytest.mark.parametrize("damage", ["text", "empty", "truncated", "page"])
def test_corrupt_parquet_names_the_file(tmp_path, write_parquet, make_images, damage):
    path = write_parquet(tmp_path / "a.parquet", make_images(8), [0, 1] * 4)
    content = path.read_bytes()
    path.write_bytes({
        "text": b"hello", "empty": b"", "truncated": content[:-10],
        "page": content[:4] + b"\xff" * 400 + content[404:],
    }[damage])  # fmt: skip
    assert "a.parquet" in refused("corrupt parquet file", path)


@pytest.mark.parametrize("limit", [1 << 20, 0])
@pytest.mark.parametrize("damage", [b"no image at all", b"", None, "cut"])
def test_corrupt_images_name_file_and_row_or_are_skipped(tmp_path, write_parquet, make_images, encode, damage, limit):
    arrays = make_images(10)
    images = [encode(array) for array in arrays]
    images[3] = images[3][: len(images[3]) // 2] if damage == "cut" else damage
    images[7] = b"worse"
    write_parquet(tmp_path / "a-0-train-0001.parquet", images[:2], [0, 1])
    write_parquet(tmp_path / "a-0-train-0002.parquet", images[2:], [0, 1] * 4)
    if damage == "cut" and not limit:
        lazy = load(str(tmp_path), "train", memory_limit=limit, skip_bad=True)
    else:
        message = refused(r"bad image in row 1 of .*a-0-train-0002\.parquet", tmp_path, memory_limit=limit)
        assert message.endswith("try data.skip_bad=true")
        lazy = load(str(tmp_path), "train", memory_limit=limit, skip_bad=True)
    good = [0, 1, 2, 4, 5, 6, 8, 9]
    assert lazy.skipped == 2
    assert lazy.index.tolist() == good
    assert lazy.labels.tolist() == [i % 2 for i in good]
    assert torch.equal(everything(lazy), as_tensor(arrays[good]))


def test_a_set_of_bad_images_alone_is_refused(tmp_path, write_parquet):
    path = write_parquet(tmp_path / "a.parquet", [b"bad", b"worse"], [0, 1])
    refused("all bad", path, skip_bad=True)


def test_wrong_labels_are_refused(tmp_path, write_parquet, make_images):
    def write(labels, **options):
        return write_parquet(tmp_path / "a.parquet", make_images(len(labels)), labels, **options)

    refused("label -1 in row 2 of .*a.parquet", write([0, 1, -1]))
    refused("label 3 in row 1 of .*allowed labels from 0 to 2", write([0, 3, 1], names="abc"))
    refused("label 100000 in row 1", write([0, 100_000, 1]))
    refused("labels of type double", write([0.0, 1.0, 0.5]))
    refused("labels of type string", write(["cat", "dog"]))
    refused("no label in row 1", write([0, None, 1]))
    refused("labels beyond int64", write([0, 2**64 - 1], label_type=pa.uint64()))


def test_missing_columns_are_listed(tmp_path, write_parquet, make_images):
    path = write_parquet(tmp_path / "a.parquet", make_images(2), [0, 1], image="photo", label="kind")
    assert "an image column: image | img" in refused("columns photo, kind in", path)
    path = write_parquet(tmp_path / "a.parquet", make_images(2), [0, 1], label="kind")
    refused("a label column: label | fine_label", path)
    table = pa.table({"image": ["a.png"], "label": [0]})
    pa.parquet.write_table(table, path)
    refused("column image of type string", path)


def test_empty_sets_are_refused(tmp_path, write_parquet):
    refused("an empty set", write_parquet(tmp_path / "a.parquet", [], [], label_type=pa.int64()))
    (tmp_path / "nothing").mkdir()
    refused("a folder without images", tmp_path / "nothing")


def test_shards_with_other_class_names_are_refused(tmp_path, write_parquet, make_images):
    for i, names in enumerate(("ab", "ba")):
        write_parquet(tmp_path / f"a-train-{i}.parquet", make_images(2), [0, 1], names=names)
    refused("other class names in .*a-train-1", tmp_path)
