"""Weights for nets: files are read without executing anything; a state fits exactly or is refused."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..settings.errors import UserError
from .classifier import Classifier
from .from_file import is_file_function, net_from_file

_WRAPPERS = ("module.", "_orig_mod.")
_CONTAINERS = ("state_dict", "model", "ema")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".pth.tar")
_NORMALISATION = ("mean", "std")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU, without the prefixes of DDP and ``torch.compile``.

    Args:
        path: ``.safetensors``, or ``.pt`` / ``.pth`` read with ``weights_only=True``: a state dict, plain or
            under ``state_dict``, ``model`` or ``ema``.

    Raises:
        UserError: If the file is missing, damaged, of another kind, or needs a pickle to be executed.
    """
    path = Path(path).expanduser()
    if not path.name.endswith(_SUFFIXES):
        raise UserError("weights", str(path), "a file that ends in " + " | ".join(_SUFFIXES))
    if not path.is_file():
        raise UserError("weights", str(path), "an existing file")
    tree = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle_safely(path)
    return _without_wrappers(_state_dict(tree, path))


def load_weights(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy ``state`` into ``module``: every key must be there, none may be left over, every shape must fit.

    A ``Classifier`` also takes the state of its bare net, and then keeps its own normalisation; one without
    normalisation takes over the state's. On the meta device the fit is checked and nothing is copied.

    Args:
        module: Where the weights go.
        state: From ``read_weights``.
        source: Where they came from, for the message.

    Raises:
        UserError: If they do not fit; nothing has been changed then.
    """
    state = _without_wrappers(state)
    best = min((_fit(target, state, spared) for target, spared in _targets(module)), key=_Attempt.size)
    if best.size():
        raise UserError("weights", source, f"weights of this architecture ({best.describe()})", "its own model.name")
    target, matched = best.target, best.matched
    if isinstance(target, Classifier):
        for name in _NORMALISATION:
            if name in matched and matched[name].shape != getattr(target, name).shape:
                setattr(target, name, torch.empty_like(matched[name], device=getattr(target, name).device))
    if not any(tensor.is_meta for tensor in target.state_dict().values()):
        target.load_state_dict(matched, strict=False)


def load_target(target: str, weights: str | None = None) -> Classifier:
    """The net of ``path/to/file.py:function``, in a ``Classifier`` that adds no normalisation.

    Args:
        target: ``FILE.py:function``; the function returns an ``nn.Module`` that takes images in [0, 1].
        weights: A file to load into it.

    Raises:
        UserError: If the target is not of this form, or it or the weights cannot be loaded.
    """
    if not is_file_function(target):
        raise UserError("target", target, "a run directory or FILE.py:function")
    net = net_from_file(target, setting="target")
    classifier = net if isinstance(net, Classifier) else Classifier(net)
    if weights is not None:
        load_weights(classifier, read_weights(weights), weights)
    return classifier


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError("weights", str(path), "a whole .safetensors file", f"another copy ({error})") from None


def _read_pickle_safely(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # torch warns of foreign pickles before it refuses them; one line is enough.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        allowed = "a whole file of tensors and nothing else: pickles are not executed"
        raise UserError("weights", str(path), allowed, "saving model.state_dict() alone") from None
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        AttributeError,
        IndexError,
        UnicodeError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            "weights", str(path), "a whole file written by torch.save", f"another copy ({reason})"
        ) from None


def _state_dict(tree: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a plain state dict, or of the first container in it, without numbers beside them."""
    if isinstance(tree, Mapping):
        for container in _CONTAINERS:
            if isinstance(tree.get(container), Mapping):
                return _state_dict(tree[container], path)
        tensors = {str(key): value for key, value in tree.items() if isinstance(value, Tensor)}
        if tensors and not any(isinstance(value, Mapping) for value in tree.values()):
            return tensors
    found = "keys " + _first(map(str, tree)) if isinstance(tree, Mapping) else type(tree).__name__
    allowed = "a state dict, plain or under " + " | ".join(_CONTAINERS)
    raise UserError("weights", f"{path} with {found}", allowed)


def _strip(key: str) -> str:
    """``module._orig_mod.fc.weight`` as ``fc.weight``; a compiled part may also sit further inside."""
    while key.startswith(_WRAPPERS):
        key = key.partition(".")[2]
    return key.replace("._orig_mod.", ".")


def _without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    stripped = {_strip(key): value for key, value in state.items()}
    # Where stripping would make two keys one, the prefix is part of a name and no wrapper.
    return stripped if len(stripped) == len(state) else dict(state)


class _Attempt(NamedTuple):
    """How well a state fits one module: what would be copied, and what stands against it."""

    target: nn.Module
    matched: dict[str, Tensor]
    problems: dict[str, list[str]]

    def size(self) -> int:
        return sum(len(keys) for keys in self.problems.values())

    def describe(self) -> str:
        return ", ".join(f"{len(keys)} {kind}: {_first(keys)}" for kind, keys in self.problems.items() if keys)


def _targets(module: nn.Module) -> list[tuple[nn.Module, tuple[str, ...]]]:
    """Where a state may go, with the keys that it may lack there."""
    if isinstance(module, Classifier):
        return [(module, _NORMALISATION), (module.net, ())]
    return [(module, ())]


def _fit(target: nn.Module, state: Mapping[str, Tensor], spared: tuple[str, ...]) -> _Attempt:
    own = {key: value for key, value in target.state_dict().items() if isinstance(value, Tensor)}
    # The target may be wrapped, or have a true submodule called "module": both sides are compared without.
    names = {_strip(key): key for key in own}
    if len(names) != len(own):
        names = {key: key for key in own}
    matched = {names[key]: value for key, value in state.items() if key in names}
    wrong_shape = [
        f"{key} {tuple(value.shape)} for {tuple(own[key].shape)}"
        for key, value in matched.items()
        if value.shape != own[key].shape and not (key in spared and own[key].numel() == 1 and value.ndim == 4)
    ]
    missing = [key for key in own if key not in matched and key not in spared]
    unexpected = [key for key in state if key not in names]
    return _Attempt(target, matched, {"missing": missing, "unexpected": unexpected, "wrong shape": wrong_shape})


def _first(keys: Any, limit: int = 3) -> str:
    keys = list(keys)
    return ", ".join(keys[:limit]) + (", ..." if len(keys) > limit else "")
