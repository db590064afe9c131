import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _own_caches(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def shared_data():
    """The real data sets beside the checkout."""
    folder = Path(__file__).parents[2] / ".." / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    return folder.resolve()


@pytest.fixture
def make_images():
    """``make_images(n, size, mode)``: n random arrays, (size, size, 3) or (size, size)."""

    def make(n, size=8, mode="RGB", seed=0):
        shape = (n, size, size, 3) if mode == "RGB" else (n, size, size)
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    return make


@pytest.fixture
def encode():
    """PNG bytes of an array."""

    def to_png(array, kind="PNG"):
        stream = io.BytesIO()
        Image.fromarray(array).save(stream, kind)
        return stream.getvalue()

    return to_png


@pytest.fixture
def write_parquet(encode):
    """``write_parquet(path, images, labels)``: arrays or bytes as the hub would store them."""

    def write(path, images, labels, *, image="image", label="label", names=None, raw=False, label_type=None):
        cells = [cell if isinstance(cell, bytes) or cell is None else encode(cell) for cell in images]
        if not raw:
            cells = [{"bytes": cell, "path": None} for cell in cells]
        kind = pa.binary() if raw else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({image: pa.array(cells, kind), label: pa.array(labels, label_type)})
        if names is not None:
            features = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
            info = json.dumps({"info": {"features": features}})
            table = table.replace_schema_metadata({"huggingface": info})
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=4)
        return path

    return write


@pytest.fixture
def splits(tmp_path, write_parquet, make_images):
    """Ten training images in two shards, six test images."""
    images = make_images(16)
    write_parquet(tmp_path / "pets-train-00000-of-00002.parquet", images[:5], [0, 1, 2, 0, 1])
    write_parquet(tmp_path / "pets-train-00001-of-00002.parquet", images[5:10], [2, 0, 1, 2, 0])
    write_parquet(tmp_path / "pets-test-00000-of-00001.parquet", images[10:], [0, 1, 2] * 2)
    return tmp_path, images


@pytest.fixture
def write_folder(encode, monkeypatch, tmp_path_factory):
    """``write_folder(root, {"train/cat": arrays, ...})``: an image folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets"))

    def write(root, classes):
        for name, images in classes.items():
            folder = root / name
            folder.mkdir(parents=True, exist_ok=True)
            for i, array in enumerate(images):
                (folder / f"{i}.png").write_bytes(array if isinstance(array, bytes) else encode(array))
        return root

    return write
