"""Files of adversarial images, ours and other people's, read a part at a time."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..libraries import Tensor, np, torch
from ..settings.errors import UserError
from ..types import Images

_SUFFIXES = (".safetensors", ".pt", ".pth", ".npy")
_DAMAGE = (SafetensorError, RuntimeError, OSError, EOFError, ValueError, TypeError, LookupError, AttributeError)
"""What readers raise where a file is cut off or is none of its kind."""
_WHOLE = "a whole file of images (N, C, H, W), float in [0, 1]"


@dataclass(frozen=True)
class StoredSet:
    """Images in a file, of which only the asked ones are in memory: it is opened anew for each part.

    Left open, the parts of a mapped file that were read would pile up in memory.
    """

    shape: tuple[int, ...]
    """(N, C, H, W)."""
    part: Callable[[int, int], Tensor]
    """The rows from one to before another, as they are stored, on the CPU."""
    index: Tensor | None = None
    """(N,) names of the examples; None: their positions."""
    label: Tensor | None = None
    about: dict[str, str] = field(default_factory=dict)
    """What the file says of itself: see ``stored.about``."""

    def images(self, start: int, end: int) -> Images:
        """(B, C, H, W) float32, which is what a net is asked with."""
        return self.part(start, end).float()


def open_stored(path: Path | str) -> StoredSet:
    """The images of a file.

    Args:
        path: ``.safetensors`` with ``x_adv`` (and ``index`` and ``label``, as ``StoredImages`` writes), ``.npy``, or
            ``.pt`` with one tensor, as RobustBench's external evaluations; nothing in it is executed.

    Raises:
        UserError: If there is no such file, it is damaged, or it holds anything else.
    """
    path = Path(path)
    if not path.name.endswith(_SUFFIXES):
        raise UserError(str(path), path.suffix or "no suffix", " | ".join(_SUFFIXES))
    if not path.is_file():
        raise UserError(str(path), "no such file", "a file of adversarial images")
    readers = {".safetensors": _safetensors, ".npy": _npy}
    try:
        return _checked(readers.get(path.suffix, _pt)(path), path)
    except UserError:
        raise
    except pickle.UnpicklingError:
        raise UserError(str(path), "a pickle of other things", "one tensor: pickles are not executed") from None
    except _DAMAGE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(str(path), f"a damaged file ({reason})", _WHOLE, "another copy") from None


def _safetensors(path: Path) -> StoredSet:
    with safe_open(path, "pt") as file:
        keys, about = set(file.keys()), file.metadata() or {}
        if "x_adv" not in keys:
            raise UserError(str(path), "tensors " + ", ".join(sorted(keys)), "a tensor x_adv")
        shape = tuple(file.get_slice("x_adv").get_shape())
        columns = {name: file.get_tensor(name).flatten() for name in ("index", "label") if name in keys}

    def part(start: int, end: int) -> Tensor:
        with safe_open(path, "pt") as file:
            return file.get_slice("x_adv")[start:end]

    return StoredSet(shape, part, **columns, about=about)


def _npy(path: Path) -> StoredSet:
    def opened() -> np.ndarray:
        return np.load(path, mmap_mode="r", allow_pickle=False)

    # Native byte order: of others torch makes nothing
    return StoredSet(opened().shape, lambda start, end: torch.from_numpy(_native(opened()[start:end])))


def _native(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("="))


def _pt(path: Path) -> StoredSet:
    def opened() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of foreign pickles before it refuses them
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))

    found = opened()
    if not isinstance(found, Tensor):
        names = f" of {', '.join(map(str, found))}" if isinstance(found, dict) else ""
        raise UserError(str(path), f"a {type(found).__name__}{names}", "one tensor", "torch.save(x_adv, path)")
    return StoredSet(tuple(found.shape), lambda start, end: opened()[start:end].detach())


def _is_zip(path: Path) -> bool:
    """Whether torch wrote it in its present format, the one that can be mapped."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _checked(found: StoredSet, path: Path) -> StoredSet:
    if len(found.shape) != 4 or not found.shape[0]:
        raise UserError(str(path), f"a tensor of shape {found.shape}", "(N, C, H, W)")
    if not (dtype := found.part(0, 1).dtype).is_floating_point:
        raise UserError(str(path), str(dtype).removeprefix("torch."), _WHOLE, "x.float() / 255")
    for name, column in (("index", found.index), ("label", found.label)):
        if column is not None and (len(column) != found.shape[0] or column.is_floating_point()):
            given = f"{name}: {column.dtype} ({len(column)},) of {found.shape[0]} images"
            raise UserError(str(path), given.replace("torch.", ""), f"{name}: a whole number for each image")
    return found
