import io

import numpy as np
import torch
from loading_checks import as_tensor, everything, refused
from PIL import Image

from inure.data import load
from inure.data import progress as progress_module


def test_jpeg_images_are_decoded(tmp_path, write_parquet, make_images, encode):
    array = np.full((8, 8, 3), 77, np.uint8)
    path = write_parquet(tmp_path / "a.parquet", [encode(array, "JPEG")], [0])
    assert int((everything(load(str(path), None)).int() - 77).abs().max()) <= 2


def test_a_set_is_grey_only_if_all_its_images_are(tmp_path, write_parquet, make_images):
    grey, colour = list(make_images(3, mode="L")), list(make_images(3))
    path = write_parquet(tmp_path / "grey.parquet", grey, [0, 1, 0])
    assert torch.equal(everything(load(str(path), None))[:, 0], torch.from_numpy(np.stack(grey)))
    for i, mixed in enumerate(([*grey, *colour], [*colour, *grey])):
        path = write_parquet(tmp_path / f"mixed{i}.parquet", mixed, [0, 1] * 3)
        for limit in (1 << 20, 0):
            images = load(str(path), None, memory_limit=limit)
            expected = [a if a.ndim == 3 else np.stack([a] * 3, -1) for a in mixed]
            assert torch.equal(everything(images), as_tensor(expected))


def test_other_modes_become_colour_or_grey(tmp_path, write_parquet, encode):
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    path = write_parquet(tmp_path / "deep.parquet", [encode(deep)], [0])
    assert torch.equal(everything(load(str(path), None))[0, 0], torch.from_numpy((deep >> 8).astype(np.uint8)))
    transparent = np.full((8, 8, 4), 9, np.uint8)
    path = write_parquet(tmp_path / "rgba.parquet", [encode(transparent)], [0])
    assert load(str(path), None).shape == (3, 8, 8)
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).quantize(4).save(stream, "PNG", transparency=b"\x10\x20")
    path = write_parquet(tmp_path / "palette.parquet", [stream.getvalue()], [0])
    assert everything(load(str(path), None)).unique().tolist() == [9]


def test_images_of_different_sizes_need_img_size(tmp_path, write_parquet, make_images):
    small, large = list(make_images(2, size=8)), list(make_images(2, size=12, seed=1))
    path = write_parquet(tmp_path / "a.parquet", [*small, *large], [0, 1, 0, 1])
    for limit in (1 << 20, 0):
        message = refused("an image of 12 x 12 among 8 x 8 ones, in row 2 of .*a.parquet", path, memory_limit=limit)
        assert "model.img_size=8" in message
        images = load(str(path), None, img_size=8, memory_limit=limit)
        assert torch.equal(everything(images)[:2], as_tensor(small))
        resized = np.asarray(Image.fromarray(large[0]).resize((8, 8), Image.Resampling.BILINEAR))
        assert torch.equal(everything(images)[2], as_tensor([resized])[0])
    path = write_parquet(tmp_path / "b.parquet", large, [0, 1])
    assert load(str(path), None, img_size=10).shape == (3, 10, 10)


def test_images_need_not_be_square(tmp_path, write_parquet, make_images):
    arrays = make_images(2, size=8)[:, :5]
    images = load(str(write_parquet(tmp_path / "a.parquet", arrays, [0, 1])), None)
    assert images.shape == (3, 5, 8)
    assert torch.equal(everything(images), as_tensor(arrays))


def test_sets_above_the_memory_limit_stay_lazy(splits):
    folder, images = splits
    lazy = load(str(folder), "train", memory_limit=10 * 3 * 64 - 1)
    assert not lazy.in_memory
    assert torch.equal(everything(lazy), as_tensor(images[:10]))
    assert load(str(folder), "train", memory_limit=20_000).in_memory


def test_encoded_images_above_the_limit_are_mapped_from_a_cache(tmp_path, write_parquet, make_images, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_parquet(tmp_path / "a.parquet", make_images(9), [0, 1, 2] * 3, raw=True)
    for _ in range(2):
        images = load(str(path), None, memory_limit=0)
        assert torch.equal(everything(images), as_tensor(make_images(9)))
        assert [file.name for file in (tmp_path / "cache/inure").iterdir()] == [f"{images.hash}.arrow"]
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert "XDG_CACHE_HOME=DIR" in refused("cache folder", path, memory_limit=0)


def test_the_progress_bar_waits_and_needs_a_terminal(monkeypatch, capsys):
    with progress_module.SlowProgress("working", 3, after=0) as bar:
        bar.advance(3)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with progress_module.SlowProgress("working", 3, after=0) as bar:
        bar.advance(1)
        bar.advance(2)
    assert "working" in capsys.readouterr().err
    with progress_module.SlowProgress("working", 3) as bar:
        bar.advance(3)
    assert capsys.readouterr().err == ""
