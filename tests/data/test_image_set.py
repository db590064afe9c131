import hashlib
import pickle

import pytest
import torch

from inure.data import ImageSet, load


@pytest.fixture
def images():
    pixels = torch.randint(0, 256, (10, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet.from_arrays(pixels, torch.arange(10) % 4)


@pytest.fixture(params=["in memory", "lazy"])
def either(request, tmp_path, write_parquet, make_images):
    path = write_parquet(tmp_path / "set.parquet", make_images(10), [i % 4 for i in range(10)])
    limit = 1 << 20 if request.param == "in memory" else 0
    return load(str(path), None, memory_limit=limit), make_images(10)


def test_arrays_make_a_set(images):
    assert len(images) == 10
    assert images.num_classes == 4
    assert images.class_names == ("0", "1", "2", "3")
    assert images.shape == (3, 4, 5)
    assert images.in_memory
    contents = images.pixels.numpy().tobytes() + images.labels.numpy().tobytes()
    assert images.hash == hashlib.sha256(contents).hexdigest()
    assert "10 images 3 x 4 x 5" in repr(images)


def test_a_net_is_shown_floats_with_their_labels_and_index(either):
    images, arrays = either
    part = images.subset(torch.tensor([9, 2, 5]))
    rows = torch.tensor([2, 0])
    x, y, index = part.examples(rows, "cpu")
    expected = torch.from_numpy(arrays[[5, 9]]).permute(0, 3, 1, 2).float() / 255
    assert x.dtype == torch.float32
    assert torch.equal(x, expected)
    assert (y.tolist(), index.tolist()) == ([1, 1], [5, 9])


def test_batches_are_the_images(either):
    images, arrays = either
    rows = torch.tensor([7, 0, 7, 3])
    expected = torch.from_numpy(arrays[rows.numpy()]).permute(0, 3, 1, 2)
    batch = images.batch(rows)
    assert batch.dtype == torch.uint8
    assert torch.equal(batch, expected)


def test_subsets_of_subsets_keep_the_index_of_the_source(either):
    images, _ = either
    part = images.subset(torch.tensor([9, 2, 4])).subset(torch.tensor([2, 0]))
    assert part.index.tolist() == [4, 9]
    assert part.labels.tolist() == [0, 1]
    assert torch.equal(part.batch(torch.tensor([0, 1])), images.batch(torch.tensor([4, 9])))
    assert (part.hash, part.class_names) == (images.hash, images.class_names)


def test_head_is_the_first_rows(either):
    images, _ = either
    assert images.head(3).index.tolist() == [0, 1, 2]
    assert torch.equal(images.head(3).batch(torch.arange(3)), images.batch(torch.arange(3)))
    assert len(images.head(99)) == len(images.head(None)) == 10


def test_a_set_can_be_pickled(either):
    images, _ = either
    again = pickle.loads(pickle.dumps(images))
    assert torch.equal(again.batch(torch.arange(10)), images.batch(torch.arange(10)))


def test_moving_moves_pixels_only_if_they_are_in_memory(either):
    images, _ = either
    moved = images.to("meta")
    assert moved.labels.device.type == "cpu"
    assert moved.device.type == ("meta" if images.in_memory else "cpu")
