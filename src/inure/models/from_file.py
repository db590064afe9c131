"""A net of the user's: ``path/to/file.py:function``, where the function returns an ``nn.Module``."""

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from torch import nn

from ..errors import UserError, unknown_name

_brought: dict[str, Path] = {}
"""Helper modules that files imported from their own folders."""


def is_file_function(name: str) -> bool:
    """Whether ``name`` is written ``FILE.py:function``."""
    return ".py:" in name or name.endswith(".py")


def net_from_file(target: str, *, setting: str) -> nn.Module:
    """What the function, called without arguments, returns.

    The file's folder is on the import path while the file loads and the function runs.

    Args:
        target: ``path/to/file.py:function``.
        setting: Where the user wrote it, for messages.

    Raises:
        UserError: If the file or the function is missing or fails, or returns anything but an ``nn.Module``.
    """
    file, _, function = target.rpartition(":")
    path = Path(file).expanduser()
    if not file or not function.isidentifier():
        raise UserError(setting, target, "FILE.py:function", f"{target.rstrip(':')}:function")
    if not path.is_file():
        raise UserError(setting, str(path), "an existing Python file")
    with _importable(path.resolve().parent):
        module = _execute(path.resolve(), setting)
        make = getattr(module, function, None)
        if not callable(make):
            names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
            mistake = unknown_name(setting, function, names)
            raise UserError(setting, target, f"a function of {path.name}: {mistake.allowed}", mistake.remedy)
        try:
            net = make()
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise UserError(setting, target, "a function that runs without arguments", _said(error)) from error
    if not isinstance(net, nn.Module):
        raise UserError(setting, f"{target} returning {type(net).__name__}", "a function that returns an nn.Module")
    return net


def _execute(path: Path, setting: str) -> ModuleType:
    # A name of its own, so that a file called torch.py or two files called net.py do no harm. It stays in
    # sys.modules: dataclasses and torch.compile look a class's module up by name.
    name = f"_inure_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        raise UserError(setting, str(path), "a file that imports without an error", _said(error)) from error
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    for name in [n for n, home in _brought.items() if home != folder and _holds(folder, n)]:
        # Two folders with a helper of one name: else the second net would silently get the first one's.
        del _brought[name]
        for stale in [n for n in sys.modules if n == name or n.startswith(f"{name}.")]:
            del sys.modules[stale]
    before = set(sys.modules)
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)
        _brought.update({n: folder for n in set(sys.modules) - before if "." not in n and _holds(folder, n)})


def _holds(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").is_file() or (folder / name).is_dir()


def _said(error: BaseException) -> str:
    return f"mending {type(error).__name__}: {error}"
