"""Any net of timm, by name, with the settings that its architecture takes. What does not fit is refused.

Everything is tried on the meta device first, where it costs little: a wrong patch size or an image that is
too small is found before weights are fetched.
"""

import inspect
from typing import Any

import torch
from torch import nn

from ..settings.errors import UserError, unknown_name
from .conv_stem import put_conv_stem
from .convit import settle_convit
from .hub import load_published
from .norms import Norm, norm_layer
from .resize import fit_sizes


def build_timm(
    name: str,
    *,
    own_names: list[str],
    num_classes: int,
    channels: int,
    size: tuple[int, int],
    data_size: tuple[int, int],
    pretrained: bool = False,
    fetch: bool = True,
    patch_size: int | None = None,
    window_size: int | None = None,
    stem: str | None = None,
    norm: Norm | None = None,
    drop_path: float = 0.0,
) -> nn.Module:
    """The net called ``name``.

    Args:
        name: An architecture of timm, with or without the tag of its weights.
        own_names: Names of ours, for suggestions.
        num_classes: K.
        channels: C.
        size: Height and width that the user wants.
        data_size: Height and width of the data.
        pretrained: Whether to start from timm's weights, in the sizes of this net: see ``load_published``.
        fetch: Whether to fetch them now.
        patch_size: None is the architecture's own.
        window_size: Patches on a side of a window, for Swin; None is the architecture's own.
        stem: ``conv`` for a ``ConvStem``; None is the architecture's own.
        norm: None is the architecture's own; others for timm's ResNets only.
        drop_path: Stochastic depth of the last block.

    Raises:
        UserError: If the name, a setting, or the combination does not exist.
    """
    import timm

    _check_name(name, own_names, pretrained)
    arguments: dict[str, Any] = {"num_classes": num_classes, "in_chans": channels}
    plain = _on_meta(name, arguments)
    takes = constructor_arguments(type(plain))
    if norm is not None:
        if not isinstance(plain, timm.models.ResNet):
            raise UserError("model.norm", norm, f"null: {name} has a norm of its own", "a ResNet")
        if pretrained and norm != "batch":
            raise UserError("model.norm", norm, "null or batch with model.pretrained", "model.pretrained=false")
        arguments["norm_layer"] = norm_layer(norm)
    if "img_size" in takes:
        arguments["img_size"] = size
    elif size != data_size:
        allowed = f"null: {name} has no img_size and sees the data's {data_size[0]}x{data_size[1]}"
        raise UserError("model.img_size", size[0], allowed)
    for setting, value in (("patch_size", patch_size), ("window_size", window_size)):
        if value is not None:
            if setting not in takes:
                raise UserError(f"model.{setting}", value, f"null: {name} has no {setting}")
            arguments[setting] = value
    if "drop_path_rate" in takes:
        arguments["drop_path_rate"] = drop_path
    elif drop_path:
        raise UserError("model.drop_path", drop_path, f"0: {name} has no drop_path")
    tried = _try_on_meta(name, arguments, stem, channels, size)
    if pretrained:
        fit_sizes(plain.state_dict(), tried)
    if torch.get_default_device().type == "meta":
        return tried.train()
    net = _finished(timm.create_model(name, **arguments), name, stem)
    if pretrained and fetch:
        load_published(net, name, arguments, plain)
    return net


def _check_name(name: str, own_names: list[str], pretrained: bool) -> None:
    import timm

    where_to_look = "a name that `inure list models` shows, or one of timm"
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise unknown_name("model.name", name, [*own_names, *timm.list_models()], where_to_look)
    if tag and name not in timm.list_pretrained():
        raise unknown_name("model.name", name, timm.list_pretrained(f"{architecture}.*"), where_to_look)
    if pretrained and not timm.models.is_model_pretrained(name):
        raise UserError("model.pretrained", True, f"false: timm has no weights for {name}")


def constructor_arguments(cls: type) -> set[str]:
    """Names of what the constructor takes, followed through ``**kwargs`` to the parents."""
    names: set[str] = set()
    for base in cls.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            names |= {parameter.name for parameter in parameters}
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
                break
    return names


def _on_meta(name: str, arguments: dict[str, Any]) -> nn.Module:
    import timm

    with torch.device("meta"):
        return timm.create_model(name, **arguments)


def _finished(net: nn.Module, name: str, stem: str | None) -> nn.Module:
    if stem is not None:
        put_conv_stem(net, name)
    settle_convit(net, name)
    return net


@torch.no_grad()
def _try_on_meta(
    name: str, arguments: dict[str, Any], stem: str | None, channels: int, size: tuple[int, int]
) -> nn.Module:
    wanted = {key: arguments[key] for key in ("img_size", "patch_size", "window_size") if key in arguments}
    try:
        net = _finished(_on_meta(name, arguments).eval(), name, stem)
        logits = net(torch.empty(2, channels, *size, device="meta"))
    except UserError:
        raise
    except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError, IndexError) as error:
        setting = "model.patch_size" if "patch_size" in wanted else "model.name"
        given = f"{name} for {channels}x{size[0]}x{size[1]} images" + (f" with {wanted}" if wanted else "")
        remedy = f"another model.img_size, model.patch_size or net (timm: {str(error) or type(error).__name__})"
        raise UserError(setting, given, "a net that takes such images", remedy) from error
    _check_patches(name, net, size)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        raise UserError("model.name", name, "a net that classifies: one tensor (B, K)")
    return net


def _check_patches(name: str, net: nn.Module, size: tuple[int, int]) -> None:
    from timm.layers.patch_embed import PatchEmbed

    embed = getattr(net, "patch_embed", None)
    if isinstance(embed, PatchEmbed) and not embed.dynamic_img_pad:
        height, width = (int(side) for side in embed.patch_size)
        if size[0] % height or size[1] % width:
            # timm would leave out the last rows and columns without a word.
            allowed = f"patches that tile {size[0]}x{size[1]} images"
            raise UserError("model.patch_size", f"{height} ({name})", allowed, "another model.patch_size")
