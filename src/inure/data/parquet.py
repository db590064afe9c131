"""Parquet files as the hub serves them, through pyarrow alone: an image column and a label column."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..libraries import Tensor, torch
from ..settings.errors import UserError
from .encoded import ArrowCells, Cells, Encoded, binary_and_paths, checked_classes, map_arrow_file, shorten

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label")


def read_parquet(files: Sequence[Path], setting: str) -> Encoded:
    """The rows of ``files``, one after the other.

    Raises:
        UserError: If a file is corrupt, lacks a column, names other classes than the first, or holds a label
            that is out of range or no whole number.
    """
    labels: list[Tensor] = []
    names: list[tuple[str, ...] | None] = []
    for file in files:
        with _opened(file, setting) as parquet:
            schema = parquet.schema_arrow
            _image_column(parquet, file, setting)
            column = find_column(schema, LABEL_COLUMNS, "a label", str(file), setting)
            values = parquet.read(columns=[column]).column(column)
            labels.append(whole_labels(values, f"column {column} of {shorten(file)}", setting))
            names.append(_class_names(schema, column))
            if names[-1] != names[0]:
                raise UserError(setting, f"other class names in {shorten(file)}", f"those of {files[0].name}")
    starts = [0, *accumulate(len(part) for part in labels)][:-1]
    together = torch.cat(labels)

    def place(row: int) -> str:
        file = max(i for i, start in enumerate(starts) if start <= row)
        return f"row {row - starts[file]} of {shorten(files[file])}"

    return Encoded(
        labels=together,
        class_names=checked_classes(together, names[0], place, setting),
        read=partial(_read_images, files, starts, setting),
        digest=partial(_hash_files, files),
    )


def find_column(schema: pa.Schema, known: Sequence[str], what: str, place: str, setting: str) -> str:
    """The first of the ``known`` columns that is there.

    Raises:
        UserError: If none is; lists those that are.
    """
    for name in known:
        if name in schema.names:
            return name
    there = ", ".join(schema.names) or "none"
    raise UserError(setting, f"columns {there} in {shorten(place)}", f"{what} column: {' | '.join(known)}")


def whole_labels(values: pa.ChunkedArray, place: str, setting: str) -> Tensor:
    """(N,) int64.

    Raises:
        UserError: If the column holds anything else than whole numbers.
    """
    import pyarrow as pa

    allowed = "whole numbers 0, 1, ..."
    if not pa.types.is_integer(values.type):
        raise UserError(setting, f"labels of type {values.type} in {place}", allowed)
    if values.null_count:
        row = values.is_null().index(True).as_py()
        raise UserError(setting, f"no label in row {row} of {place}", allowed)
    try:
        return torch.from_numpy(values.cast(pa.int64()).to_numpy().copy())
    except pa.ArrowInvalid:
        raise UserError(setting, f"labels beyond int64 in {place}", allowed) from None


def _class_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """The names that ``datasets`` leaves in the metadata of its files."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[column]["names"]) or None
    except (KeyError, TypeError, ValueError):
        return None


def _read_images(files: Sequence[Path], starts: Sequence[int], setting: str, memory_limit: int) -> Cells:
    chunks: list[Any] = []
    names = [str(file) for file in files]
    if sum(_encoded_bytes(file, setting) for file in files) > memory_limit:
        return map_arrow_file(_arrow_file(files, setting), names, starts)
    for file in files:
        with _opened(file, setting) as parquet:
            chunks += parquet.read(columns=[_image_column(parquet, file, setting)]).column(0).chunks
    return ArrowCells(chunks, names, starts)


def _image_column(parquet: pq.ParquetFile, file: Path, setting: str) -> str:
    import pyarrow as pa

    schema = parquet.schema_arrow
    name = find_column(schema, IMAGE_COLUMNS, "an image", str(file), setting)
    kind = schema.field(name).type
    cell = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(cell) or pa.types.is_large_binary(cell)):
        given = f"column {name} of type {kind} in {shorten(file)}"
        raise UserError(setting, given, "cells {bytes, path} or bytes, each a PNG or JPEG file")
    return name


def _encoded_bytes(file: Path, setting: str) -> int:
    with _opened(file, setting) as parquet:
        groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
        return sum(group.total_byte_size for group in groups)


def _arrow_file(files: Sequence[Path], setting: str) -> Path:
    """The image columns in one uncompressed file: parquet cannot be read row by row, in any order.

    It lies in ``$XDG_CACHE_HOME/inure`` (``~/.cache/inure``), is named for the contents, and is made once.
    """
    import pyarrow as pa

    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inure"
    target = folder / f"{_hash_files(files)}.arrow"
    if target.exists():
        return target
    unfinished = target.with_suffix(f".{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        schema = pa.schema([("image", pa.struct([("bytes", pa.large_binary()), ("path", pa.string())]))])
        with pa.OSFile(str(unfinished), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for images in _image_chunks(files, setting):
                writer.write_batch(_as_cells(images, schema))
        unfinished.replace(target)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        given = f"{folder}: {error.strerror or error}"
        raise UserError(setting, given, "a cache folder with room", "XDG_CACHE_HOME=DIR") from None
    return target


def _image_chunks(files: Sequence[Path], setting: str) -> Iterator[pa.Array]:
    for file in files:
        with _opened(file, setting) as parquet:
            column = _image_column(parquet, file, setting)
            for batch in parquet.iter_batches(batch_size=1024, columns=[column]):
                yield batch.column(0)


def _as_cells(images: pa.Array, schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    binary, paths = binary_and_paths(images)
    paths = pa.nulls(len(images), pa.string()) if paths is None else paths.cast(pa.string())
    struct = pa.StructArray.from_arrays([binary.cast(pa.large_binary()), paths], ["bytes", "path"])
    return pa.record_batch([struct], schema=schema)


def _hash_files(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


@contextmanager
def _opened(file: Path, setting: str) -> Iterator[pq.ParquetFile]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            yield parquet
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(setting, f"a corrupt parquet file, {shorten(file)}", f"a whole one ({reason})") from None
