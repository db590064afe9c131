"""Large libraries and large modules, each loaded when something of it is first used.

To import torch takes seconds. A mistake in settings is said, and what exists is listed, without: files take ``torch``,
``nn``, ``Tensor``, ``np`` and others from here. Their annotations stay text (``from __future__ import annotations``),
and what needs torch when it is defined (a subclass of ``nn.Module``, a decorator, a default) lies in a file that they
import inside a function. Files that hold nets, or run inside compiled ones, import torch itself.

Nothing is put into ``sys.modules`` in a library's place, as ``importlib.util.LazyLoader`` does: other libraries look
there to see whether torch was loaded, and would load it by looking.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any


class Library:
    """A module that is imported at the first look at an attribute."""

    def __init__(self, name: str) -> None:
        self.__dict__["__name__"] = name

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(import_module(self.__name__), name, value)

    def __repr__(self) -> str:
        return f"<{self.__name__}, loaded when it is used>"


class _TensorType(type):
    """``isinstance(x, Tensor)`` as with torch's own class."""

    def __instancecheck__(cls, value: object) -> bool:
        loaded = sys.modules.get("torch")  # without it there are no tensors
        return loaded is not None and isinstance(value, loaded.Tensor)


if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    import torch.nn.functional as F
    from PIL import Image
    from scipy import ndimage
    from torch import Tensor, nn
else:
    np, torch, nn, F = map(Library, ("numpy", "torch", "torch.nn", "torch.nn.functional"))
    pa, pq, Image, ndimage = map(Library, ("pyarrow", "pyarrow.parquet", "PIL.Image", "scipy.ndimage"))

    class Tensor(metaclass=_TensorType):
        """``torch.Tensor``, for annotations and ``isinstance``."""


def later(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose names are loaded when they are first used; it has ``__all__``.

    Args:
        package: Its ``__name__``.
        homes: Where each name lives, relative to the package: ``"train"``: ``"training.train"``; a name whose home is
            its own is a module.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(f".{homes[name]}", package)
        return module if homes[name] == name else getattr(module, name)

    return get, lambda: [*sys.modules[package].__all__]


__all__ = ["F", "Image", "Library", "Tensor", "later", "ndimage", "nn", "np", "pa", "pq", "torch"]
