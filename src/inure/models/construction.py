"""``build``: the net that a ``Model`` describes."""

from typing import Any

from torch import nn

from ..settings.errors import UserError
from .adapters import attach
from .classifier import Classifier
from .from_file import is_file_function, net_from_file
from .heads import put_head
from .own import OWN_NETS, build_own, own_net
from .settings import Model
from .start import holds_domains, read_start, start_another_task, start_from
from .timm_net import build_timm


def build(model: Model, *, num_classes: int, shape: tuple[int, int, int], with_weights: bool = True) -> Classifier:
    """The net that ``model`` describes, for the data at hand. Works on the meta device too.

    Args:
        model: The settings.
        num_classes: Classes in the data.
        shape: (C, H, W) of the data.
        with_weights: Whether to load what ``pretrained`` and ``weights`` name. Without, nothing is fetched or
            read, for a caller that loads a finished net's weights next; the normalisation is the same.

    Raises:
        UserError: If a setting does not exist for this net or does not fit the data.
    """
    if model.num_classes not in (None, num_classes):
        raise UserError("model.num_classes", model.num_classes, f"{num_classes}, the classes of the data")
    channels = shape[0]
    size = (model.img_size, model.img_size) if model.img_size is not None else (shape[1], shape[2])
    if is_file_function(model.name):
        classifier = _from_file(model, num_classes, channels, size, data_size=shape[1:])
    else:
        net = _named_net(model, num_classes, channels, size, data_size=shape[1:], fetch=with_weights)
        put_head(net, model.head, model.name)
        mean, std = _normalisation(model, net, channels)
        classifier = Classifier(net, num_classes=num_classes, img_size=size, in_channels=channels, mean=mean, std=std)
    if model.batchnorm is not None:
        model.batchnorm.apply(classifier, model.name)
    state = read_start(model) if with_weights and model.weights is not None else None
    if state is not None and model.transfer:
        start_another_task(classifier, model, state)
    elif state is not None and not holds_domains(state):
        start_from(classifier, model, state)
    if model.adapters is not None:
        classifier.mixture = attach(classifier.net, model.adapters)
    if state is not None and holds_domains(state):
        start_from(classifier, model, state)
    return classifier


def _named_net(
    model: Model, num_classes: int, channels: int, size: tuple[int, int], *, data_size: tuple[int, int], fetch: bool
) -> nn.Module:
    own = own_net(model.name)
    if own is None:
        if model.activation is not None:
            raise UserError("model.activation", model.activation, f"null: {model.name} has an activation of its own")
        return build_timm(
            model.name,
            own_names=list(OWN_NETS),
            num_classes=num_classes,
            channels=channels,
            size=size,
            data_size=data_size,
            pretrained=model.pretrained,
            fetch=fetch,
            patch_size=model.patch_size,
            window_size=model.window_size,
            stem=model.stem,
            norm=model.norm,
            drop_path=model.drop_path,
        )
    if model.pretrained:
        raise UserError("model.pretrained", True, f"false: {model.name} has no published weights", "model.weights=RUN")
    if not own.sized:
        _refuse_other_size(model, data_size)
    return build_own(model.name, own, _architecture(model), num_classes=num_classes, channels=channels, size=size)


def _architecture(model: Model) -> dict[str, Any]:
    """The settings that shape a net and were given."""
    names = ("patch_size", "window_size", "stem", "norm", "activation", "drop_path")
    return {name: getattr(model, name) for name in names if getattr(model, name)}


def _from_file(
    model: Model, num_classes: int, channels: int, size: tuple[int, int], *, data_size: tuple[int, int]
) -> Classifier:
    head = {} if model.head.kind == "linear" else {"head.kind": model.head.kind}
    for name, value in {"pretrained": model.pretrained, **_architecture(model), **head}.items():
        if value:
            raise UserError(f"model.{name}", value, "nothing here: the function builds the whole net")
    _refuse_other_size(model, data_size)
    net = net_from_file(model.name, setting="model.name")
    if not isinstance(net, Classifier):
        mean, std = _per_channel("mean", model.mean, channels), _per_channel("std", model.std, channels)
        return Classifier(net, num_classes=num_classes, img_size=size, in_channels=channels, mean=mean, std=std)
    for name, value in {"mean": model.mean, "std": model.std}.items():
        if value is not None:
            raise UserError(f"model.{name}", value, "null: the function returns a Classifier, which normalises")
    if net.num_classes not in (None, num_classes):
        raise UserError("model.name", f"{model.name} with {net.num_classes} classes", f"{num_classes} classes")
    return net


def _refuse_other_size(model: Model, data_size: tuple[int, int]) -> None:
    if model.img_size is not None and (model.img_size, model.img_size) != data_size:
        allowed = f"null: {model.name} has no img_size and sees the data's {data_size[0]}x{data_size[1]}"
        raise UserError("model.img_size", model.img_size, allowed)


def _normalisation(model: Model, net: nn.Module, channels: int) -> tuple[list[float], list[float]]:
    config = getattr(net, "pretrained_cfg", {}) if model.pretrained else {}
    values = []
    for name, given in (("mean", model.mean), ("std", model.std)):
        published = list(config.get(name, (0.5,)))
        if len(published) != channels:
            published = [sum(published) / len(published)] * channels
        values.append(_per_channel(name, given, channels) or published)
    return values[0], values[1]


def _per_channel(name: str, given: list[float] | None, channels: int) -> list[float] | None:
    if given is None:
        return None
    if len(given) not in (1, channels):
        raise UserError(f"model.{name}", given, f"{channels} numbers, one per channel, or a single one")
    return given if len(given) == channels else given * channels
