"""Images as their files hold them, before decoding: random access by row, with the place of every row."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ..libraries import Tensor, np, torch
from ..settings.errors import UserError
from .readout import Readout

if TYPE_CHECKING:
    import pyarrow as pa

Cell: TypeAlias = "bytes | Path | np.ndarray | None"
"""One image: encoded bytes, the file that holds them, or pixels (H, W) or (H, W, 3)."""


class Cells(Protocol):
    """Encoded images by row. Can be pickled, for the workers of a loader."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Cell: ...

    def place(self, row: int) -> str:
        """Where that row is, in words for an error."""
        ...


@dataclass(frozen=True)
class Encoded:
    """A split that was found, with its labels; images and hash are read only when they are needed."""

    labels: Tensor
    """(N,) int64, all in ``range(len(class_names))``."""
    class_names: tuple[str, ...]
    read: Callable[[int], Cells]
    """``read(memory_limit)`` opens the images; holds at most that many bytes of them in memory."""
    digest: Callable[[], str]
    """sha256 (hex) over the contents."""
    readout: Readout | None = None
    """How a net of other classes answers this set."""
    accepted: Tensor | None = None
    """(N, K) bool: the right classes of each image, where there may be several."""
    left_out: int = 0
    """Images of the files that do not belong to the set."""
    colour: bool = False
    """Whether images become RGB even if all of them are grey."""
    crop: int | None = None
    """Images are cropped as ``decode.Decoder.crop`` says, to this size unless another is asked for."""


class ArrowCells:
    """A column of an Arrow table whose cells are ``{bytes, path}`` or plain bytes."""

    def __init__(
        self, chunks: Sequence[pa.Array], files: Sequence[str], starts: Sequence[int], mapped: Path | None = None
    ) -> None:
        """``files[i]`` holds the rows from ``starts[i]`` on; ``mapped`` is the Arrow file behind the column."""
        self._chunks = [chunk for chunk in chunks if len(chunk)]
        self._parts = [binary_and_paths(chunk) for chunk in self._chunks]
        self._offsets = np.cumsum([0, *(len(part[0]) for part in self._parts)]).tolist()
        self._files, self._starts, self._mapped = tuple(files), tuple(starts), mapped

    def __len__(self) -> int:
        return self._offsets[-1]

    def __getitem__(self, row: int) -> Cell:
        part = bisect.bisect_right(self._offsets, row) - 1
        binary, paths = self._parts[part]
        data = binary[row - self._offsets[part]].as_py()
        if data is None and paths is not None:
            path = paths[row - self._offsets[part]].as_py()
            return Path(path) if path else None
        return data

    def place(self, row: int) -> str:
        """The file of its own that the image is in, or row and file."""
        cell = self[row]
        if isinstance(cell, Path):
            return shorten(cell)
        file = bisect.bisect_right(self._starts, row) - 1
        return f"row {row - self._starts[file]} of {shorten(self._files[file])}"

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapped file travels to other processes by name, not by content.
        if self._mapped is not None:
            return map_arrow_file, (self._mapped, self._files, self._starts)
        return ArrowCells, (self._chunks, self._files, self._starts)


class ArrayCells:
    """Pixels that are in memory already."""

    def __init__(self, arrays: np.ndarray, name: str) -> None:
        self._arrays, self._name = arrays, name

    def __len__(self) -> int:
        return len(self._arrays)

    def __getitem__(self, row: int) -> Cell:
        return self._arrays[row]

    def place(self, row: int) -> str:
        """Row and name."""
        return f"row {row} of {self._name}"


class FileCells:
    """Images in files of their own."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = tuple(files)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, row: int) -> Cell:
        return self._files[row]

    def place(self, row: int) -> str:
        """The file."""
        return shorten(self._files[row])


def map_arrow_file(file: Path, files: Sequence[str], starts: Sequence[int]) -> ArrowCells:
    """The only column of an Arrow file, read from disk as it is used."""
    import pyarrow as pa

    with pa.memory_map(str(file)) as source:
        chunks = pa.ipc.open_file(source).read_all().column(0).chunks
    return ArrowCells(chunks, files, starts, mapped=file)


def checked_classes(
    labels: Tensor, names: tuple[str, ...] | None, place: Callable[[int], str], setting: str
) -> tuple[str, ...]:
    """The class names; "0", "1", ... up to the highest label where the files tell none.

    Raises:
        UserError: If there are no labels, or the first one that is out of range.
    """
    if len(labels) == 0:
        raise UserError(setting, "an empty set", "at least one image")
    # Without names a stray label would silently grow the model: 999 for a handful of images is still believed.
    most = len(names) if names else 1000 + 100 * int(labels.unique().numel())
    wrong = ((labels < 0) | (labels >= most)).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        allowed = f"labels from 0 to {len(names) - 1}" if names else "labels 0, 1, ... without large gaps"
        raise UserError(setting, f"label {int(labels[row])} in {place(row)}", allowed)
    return names or tuple(str(k) for k in range(int(labels.max()) + 1))


def hash_cells(cells: Cells, labels: Tensor) -> str:
    """sha256 (hex) over the encoded images, row by row, and their labels; a missing image counts as nothing."""
    digest = hashlib.sha256()
    for row in range(len(cells)):
        cell = cells[row]
        if isinstance(cell, Path):
            cell = cell.read_bytes() if cell.is_file() else None
        if cell is not None:
            digest.update(cell if isinstance(cell, bytes) else np.ascontiguousarray(cell).tobytes())
    digest.update(labels.to(torch.int64).numpy().tobytes())
    return digest.hexdigest()


def shorten(path: str | Path, limit: int = 60) -> str:
    """The end of a long path, which tells more than its beginning."""
    text = str(path)
    return text if len(text) <= limit else "..." + text[3 - limit :]


def binary_and_paths(chunk: pa.Array) -> tuple[pa.Array, pa.Array | None]:
    """The two halves of cells ``{bytes, path}``; plain bytes have no paths."""
    import pyarrow as pa

    if not pa.types.is_struct(chunk.type):
        return chunk, None
    fields = dict(zip((field.name for field in chunk.type), chunk.flatten(), strict=True))
    return fields["bytes"], fields.get("path")
