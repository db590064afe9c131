import itertools

import pytest
import torch

from inure.data import Augment, ImageSet, Loader, load, to_batch
from inure.settings.errors import UserError


def numbered(n):
    """A set whose images tell their row."""
    pixels = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 1, 2, 2).contiguous()
    return ImageSet.from_arrays(pixels, torch.arange(n) % 3)


def make(images, batch_size, **options):
    return Loader(images, batch_size=batch_size, seed=options.pop("seed", 0), device="cpu", **options)


def all_rows(loader, epoch=0, start=0):
    return [rows.tolist() for _, _, rows in loader.epoch(epoch, start)]


def test_an_epoch_holds_every_image_once_with_its_label_and_row():
    images = numbered(23)
    loader = make(images, 5)
    seen = []
    for x, y, rows in loader.epoch(0):
        assert torch.equal(x, images.batch(rows))
        assert torch.equal(y, images.labels[rows])
        assert rows.dtype == torch.int64
        seen += rows.tolist()
    assert sorted(seen) == list(range(23))
    assert loader.steps_per_epoch == len(all_rows(loader)) == 5


def test_order_is_a_function_of_seed_and_epoch_alone():
    first = all_rows(make(numbered(50), 8), epoch=3)
    torch.manual_seed(123)
    loader = make(numbered(50), 8)
    next(loader.epoch(0))
    assert all_rows(loader, epoch=3) == first
    assert all_rows(loader, epoch=4) != first
    assert all_rows(make(numbered(50), 8, seed=1), epoch=3) != first


@pytest.mark.parametrize("start", [0, 1, 4, 7, 99])
def test_start_skips_exactly_that_many_batches(start):
    loader = make(numbered(50), 8)
    assert all_rows(loader, 2, start) == all_rows(loader, 2)[start:]


@pytest.mark.parametrize(
    ("n", "batch_size", "world_size"), list(itertools.product([15, 24, 31, 33], [4, 8], [1, 2, 4]))
)
def test_ranks_divide_every_batch_equally(n, batch_size, world_size):
    loaders = [make(numbered(n), batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    whole = all_rows(make(numbered(n), batch_size))
    assert len({loader.steps_per_epoch for loader in loaders}) == 1
    steps = list(zip(*(all_rows(loader) for loader in loaders), strict=True))
    assert len(steps) == loaders[0].steps_per_epoch
    for step, parts in enumerate(steps):
        assert len({len(part) for part in parts}) == 1
        assert len(parts[0]) > 1 or batch_size == world_size
        together = [row for part in parts for row in part]
        if step < n // batch_size:
            # The same images as on one device.
            assert together == whole[step]
        else:
            left = n % batch_size
            assert set(together[left:]) <= set(whole[0])
            assert len(together) - left < world_size


def test_a_last_batch_of_one_is_dropped():
    assert [len(rows) for rows in all_rows(make(numbered(17), 8))] == [8, 8]
    assert [len(rows) for rows in all_rows(make(numbered(18), 8))] == [8, 8, 2]
    # One image for each of two ranks is no better.
    assert [len(rows) for rows in all_rows(make(numbered(18), 8, world_size=2))] == [4, 4]
    # Batches of one were asked for here.
    assert len(all_rows(make(numbered(3), 1))) == 3


def test_drop_last_drops_any_smaller_batch():
    loader = make(numbered(22), 8, drop_last=True)
    assert [len(rows) for rows in all_rows(loader)] == [8, 8]
    assert loader.steps_per_epoch == 2


def test_a_batch_of_more_than_the_set_is_the_set():
    assert [len(rows) for rows in all_rows(make(numbered(6), 64))] == [6]


@pytest.mark.parametrize(
    ("n", "batch_size", "options"),
    [(10, 0, {}), (10, 5, {"world_size": 2}), (1, 8, {}), (6, 8, {"drop_last": True})],
)
def test_batches_that_cannot_be_made_are_refused(n, batch_size, options):
    with pytest.raises(UserError, match="batch_size: got"):
        make(numbered(n), batch_size, **options)


@pytest.fixture
def parquet(tmp_path, write_parquet, make_images):
    return write_parquet(tmp_path / "set.parquet", make_images(21), [i % 3 for i in range(21)])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_lazy_sets_give_the_same_batches(parquet, num_workers):
    eager = make(load(str(parquet), None), 4)
    lazy_set = load(str(parquet), None, memory_limit=0)
    assert not lazy_set.in_memory
    lazy = make(lazy_set, 4, num_workers=num_workers)
    torch.manual_seed(0)
    for one, other in zip(eager.epoch(1, 2), lazy.epoch(1, 2), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    # The draws of the training step are left alone.
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_image_met_by_a_worker_is_one_clear_error(tmp_path, write_parquet, make_images, encode, num_workers):
    images = [encode(array) for array in make_images(6)]
    images[4] = images[4][: len(images[4]) // 2]
    path = write_parquet(tmp_path / "set.parquet", images, [0, 1] * 3)
    loader = make(load(str(path), None, memory_limit=0), 2, num_workers=num_workers)
    with pytest.raises(UserError, match=r"bad image in row 4 of .*set\.parquet"):
        list(loader.epoch(0))


def test_to_batch_makes_floats_in_the_unit_interval():
    x = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    y = torch.tensor([0, 1, 2, 0])
    images, labels = to_batch(x, y, None, 3)
    assert images.dtype == torch.float32
    assert torch.equal(images.flatten(), torch.arange(256).float() / 255)
    assert labels is y
    flipped, labels = to_batch(x, y, Augment(flip=True), 3)
    assert labels is y
    assert torch.equal(flipped.flatten(2).sort().values, images.flatten(2).sort().values)
    _, labels = to_batch(x, y, Augment(mixup=1), 3)
    assert labels.shape == (4, 3)
