"""``model.weights``: start from a run or a file, strictly, or for another task (``model.transfer``)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..settings.errors import UserError
from .classifier import Classifier
from .resize import fit_sizes
from .settings import Model
from .weights import load_weights, read_weights


def read_start(model: Model) -> dict[str, Tensor]:
    """The tensors that ``model.weights`` names.

    Raises:
        UserError: If they cannot be read, or have domains and are for another task.
    """
    if not _weights_file(model).exists():
        raise UserError("model.weights", str(model.weights), "a run directory or a file of weights that is there")
    try:
        state = read_weights(_weights_file(model))
    except UserError as error:
        raise error.at("model.weights") from None
    if model.transfer and holds_domains(state):
        allowed = "weights without domains, with model.transfer"
        remedy = "the file that `inure export RUN --format safetensors` writes"
        raise UserError("model.weights", f"{model.weights} with parameters per domain", allowed, remedy)
    return state


def holds_domains(state: Mapping[str, Tensor]) -> bool:
    """Whether the weights are those of a net with parameters per domain."""
    return any(name.endswith((".original", ".means", ".gate", ".up")) for name in state)


def start_from(classifier: Classifier, model: Model, state: Mapping[str, Tensor]) -> None:
    """Load ``model.weights``, whose normalisation counts unless the recipe asks for another.

    Raises:
        UserError: If they do not fit, or the recipe asks for another normalisation.
    """
    file = _weights_file(model)
    asked = {name: getattr(classifier, name).clone() for name in ("mean", "std") if getattr(model, name) is not None}
    try:
        load_weights(classifier, state, str(file))
    except UserError as error:
        remedy = "its own model.name, or model.transfer=true for another task"
        raise UserError("model.weights", error.given, error.allowed, remedy) from None
    for name, value in asked.items():
        loaded = getattr(classifier, name)
        if not loaded.is_meta and not torch.equal(loaded.expand_as(value), value):
            allowed = f"null, or the {loaded.flatten().tolist()} that {file} was trained with"
            raise UserError(f"model.{name}", value.flatten().tolist(), allowed)


def start_another_task(classifier: Classifier, model: Model, state: Mapping[str, Tensor]) -> None:
    """Load ``model.weights`` but for the classifier head, which stays new, in the sizes of this net.

    Patch kernels, position embeddings and bias tables go through ``fit_sizes``; everything else must fit. The
    normalisation is the one that ``classifier`` has. Files of timm's are understood, older names included.

    Args:
        classifier: The new net, of the same architecture.
        model: Its settings.
        state: From ``read_start``: of a run, of a ``Classifier`` or of a bare net.

    Raises:
        UserError: If the net has no head that can be told apart, or something else does not fit.
    """
    net = classifier.net
    own = net.state_dict()
    if model.name == "vit_small_legacy" and not any(name.endswith("mean") for name in state):
        allowed = "weights that Inure trained: the published ones go with another scale of attention, 768^-0.5"
        raise UserError("model.weights", str(model.weights), allowed, "another model.name")
    heads = tuple(f"{place}." for place in _heads(net, model.name))
    new_head = {name: value for name, value in own.items() if name.startswith(heads)}
    state = _bare(state, own)
    try:
        fitted = _without(heads, fit_sizes(state, net)) | new_head
        if fitted.keys() != own.keys():
            fitted = _without(heads, fit_sizes(_in_timms_names(net, state), net)) | new_head
        load_weights(net, fitted, f"{_weights_file(model)}, with model.transfer")
    except UserError as error:
        raise error if error.setting == "model.patch_size" else error.at("model.weights") from None


def _weights_file(model: Model) -> Path:
    assert model.weights is not None
    path = Path(model.weights).expanduser()
    return path / "weights.safetensors" if path.is_dir() else path


def _heads(net: nn.Module, name: str) -> list[str]:
    """Places of the last layers, whose outputs are classes."""
    named = (getattr(net, "pretrained_cfg", None) or {}).get("classifier") or ()
    named = (named,) if isinstance(named, str) else tuple(named)
    given: Any = getattr(net, "get_classifier", tuple)()
    modules = given if isinstance(given, tuple | list) else (given,)
    places = {place: module for place, module in net.named_modules() if place}
    heads = [place for place in named if place in places]
    heads = heads or [place for place, module in places.items() if any(module is head for head in modules)]
    if not any(True for place in heads for _ in places[place].parameters()):
        allowed = f"false: {name} does not say which layer is its classifier (get_classifier)"
        raise UserError("model.transfer", True, allowed)
    return heads


def _bare(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state without what a ``Classifier`` adds to it: a prefix, and the normalisation."""
    inside = {name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")}
    return inside if len(inside.keys() & own.keys()) > len(state.keys() & own.keys()) else state


def _without(heads: tuple[str, ...], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith(heads)}


def _in_timms_names(net: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A published file of older names (Swin's have some) as timm reads it; anything else as it is."""
    import timm

    config = getattr(net, "pretrained_cfg", None) or {}
    if not timm.is_model(config.get("architecture", "")):
        return state
    try:
        with torch.device("cpu"):
            overlay = {"state_dict": dict(state)}
            read = timm.create_model(config["architecture"], pretrained=True, pretrained_cfg_overlay=overlay)
        return read.state_dict()
    except (RuntimeError, KeyError, AttributeError, ValueError):
        return state  # not such a file; what is wrong with it is said where it is loaded
