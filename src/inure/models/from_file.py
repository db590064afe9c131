"""A net of the user's: ``path/to/file.py:function``, where the function returns an ``nn.Module``.

A function that needs arguments, as RobustBench's ``load_model`` does, gets them in the target:
``model.py:load_model(model_name=Wang2023Better, dataset=cifar10)``. They are read as data, never evaluated.
"""

import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ..settings.config import parse_real
from ..settings.errors import UserError, unknown_name

_TARGET = re.compile(r"(?P<file>.+?\.py):(?P<function>[^():]*)(?:\((?P<arguments>.*)\))?", re.DOTALL)
_REAL = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?(\s*/\s*[1-9][0-9]*)?")
_brought: dict[str, Path] = {}
"""Helper modules that files imported from their own folders."""


def is_file_function(name: str) -> bool:
    """Whether ``name`` is written ``FILE.py:function``, with or without arguments."""
    return ".py:" in name or name.endswith(".py")


def source_hash(target: str) -> str | None:
    """sha256 of what ``FILE.py:function(...)`` says and of the file; None for a run, whose recipe tells its net."""
    if ".py:" not in target:
        return None
    file, _, function = target.partition(".py:")
    path = Path(f"{file}.py").expanduser()
    return hashlib.sha256(function.encode() + path.read_bytes()).hexdigest() if path.is_file() else None


def net_from_file(target: str, *, setting: str) -> nn.Module:
    """What the function returns.

    The file's folder is on the import path while the file loads and the function runs.

    Args:
        target: ``path/to/file.py:function``, called without arguments, or ``path/to/file.py:function(name=value,
            ...)``. A value is true, false, a number, or else a text, to which quotes do not belong.
        setting: Where the user wrote it, for messages.

    Raises:
        UserError: If the file or the function is missing or fails, needs other arguments, or returns anything but
            an ``nn.Module``.
    """
    parts = _TARGET.fullmatch(target)
    if parts is None or not parts["function"].strip().isidentifier():
        allowed = "FILE.py:function or FILE.py:function(name=value, ...)"
        raise UserError(setting, target, allowed, f"{target.partition('.py')[0]}.py:function")
    function, arguments = parts["function"].strip(), _arguments(parts["arguments"] or "", target, setting)
    path = Path(parts["file"]).expanduser()
    if not path.is_file():
        raise UserError(setting, str(path), "an existing Python file")
    with _importable(path.resolve().parent):
        module = _execute(path.resolve(), setting)
        make = getattr(module, function, None)
        if not callable(make):
            names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
            mistake = unknown_name(setting, function, names)
            raise UserError(setting, target, f"a function of {path.name}: {mistake.allowed}", mistake.remedy)
        _check_arguments(make, arguments, f"{parts['file']}:{function}", setting)
        try:
            net = make(**arguments)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            how = "with these arguments" if arguments else "without arguments"
            raise UserError(setting, target, f"a function that runs {how}", _said(error)) from error
    if not isinstance(net, nn.Module):
        raise UserError(setting, f"{target} returning {type(net).__name__}", "a function that returns an nn.Module")
    return net


def _arguments(text: str, target: str, setting: str) -> dict[str, Any]:
    """``dataset=cifar10, n=10`` as ``{"dataset": "cifar10", "n": 10}``."""
    found: dict[str, Any] = {}
    for part in text.split(",") if text.strip() else []:
        name, mark, value = (piece.strip() for piece in part.partition("="))
        if not mark or not name.isidentifier() or name in found:
            raise UserError(setting, f"{part.strip() or 'nothing'} in {target}", "name=value, each name once")
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if re.fullmatch(r"[-+]?[0-9]+", text):
        return int(text)
    return parse_real(text) if _REAL.fullmatch(text) else text


def _check_arguments(make: Callable[..., Any], given: Mapping[str, Any], target: str, setting: str) -> None:
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # some classes written in C tell none
        return
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes = [p.name for p in named]
    for name in given if not any(p.kind is p.VAR_KEYWORD for p in parameters) else ():
        if name not in takes:
            nearest = unknown_name(setting, name, takes).remedy
            raise UserError(setting, f"{name} for {target}", " | ".join(takes) or "no arguments", nearest)
    if missing := [p.name for p in named if p.default is p.empty and p.name not in given]:
        written = ", ".join([*(f"{name}={value}" for name, value in given.items()), *(f"{n}=VALUE" for n in missing)])
        raise UserError(setting, target, f"a value for {', '.join(missing)}", f"'{target}({written})'")


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
