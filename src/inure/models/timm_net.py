"""Any net of timm, by name, with the settings that its architecture takes. What does not fit is refused.

Everything is tried on the meta device first, where it costs little: a wrong patch size or an image that is
too small is found before weights are fetched.
"""

import inspect
from typing import Any

import torch
from torch import nn

from ..errors import UserError, unknown_name
from .norms import Norm, norm_layer


def build_timm(
    name: str,
    *,
    own_names: list[str],
    num_classes: int,
    channels: int,
    size: tuple[int, int],
    data_size: tuple[int, int],
    pretrained: bool = False,
    patch_size: int | None = None,
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
        pretrained: Whether to fetch timm's weights; position embeddings and patches are resampled by timm.
        patch_size: None is the architecture's own.
        norm: None is the architecture's own; others for timm's ResNets only.
        drop_path: Stochastic depth of the last block.

    Raises:
        UserError: If the name, a setting, or the combination does not exist.
    """
    import timm

    _check_name(name, own_names, pretrained)
    arguments: dict[str, Any] = {"num_classes": num_classes, "in_chans": channels}
    plain = _on_meta(name, arguments)
    takes = inspect.signature(type(plain).__init__).parameters
    if norm is not None:
        if not isinstance(plain, timm.models.ResNet):
            raise UserError("model.norm", norm, f"null: {name} has a norm of its own", "a ResNet")
        if pretrained and norm != "batch":
            raise UserError(
                "model.norm", norm, "null or batch with model.pretrained", "model.pretrained=false"
            )
        arguments["norm_layer"] = norm_layer(norm)
    if "img_size" in takes:
        arguments["img_size"] = size
    elif size != data_size:
        allowed = f"null: {name} has no img_size and sees the data's {data_size[0]}x{data_size[1]}"
        raise UserError("model.img_size", size[0], allowed)
    if patch_size is not None:
        if "patch_size" not in takes:
            raise UserError("model.patch_size", patch_size, f"null: {name} has no patch_size")
        arguments["patch_size"] = patch_size
    if "drop_path_rate" in takes:
        arguments["drop_path_rate"] = drop_path
    elif drop_path:
        raise UserError("model.drop_path", drop_path, f"0: {name} has no drop_path")
    _try_on_meta(name, arguments, channels, size)
    if pretrained and torch.get_default_device().type != "meta":
        return _fetched(name, arguments)
    return timm.create_model(name, **arguments)


def _check_name(name: str, own_names: list[str], pretrained: bool) -> None:
    import timm

    where_to_look = "a name in `inure list models` or of timm"
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise unknown_name("model.name", name, [*own_names, *timm.list_models()], where_to_look)
    if tag and name not in timm.list_pretrained():
        raise unknown_name("model.name", name, timm.list_pretrained(f"{architecture}.*"), where_to_look)
    if pretrained and not timm.models.is_model_pretrained(name):
        raise UserError("model.pretrained", True, f"false: timm has no weights for {name}")


def _on_meta(name: str, arguments: dict[str, Any]) -> nn.Module:
    import timm

    with torch.device("meta"):
        return timm.create_model(name, **arguments)


@torch.no_grad()
def _try_on_meta(name: str, arguments: dict[str, Any], channels: int, size: tuple[int, int]) -> None:
    wanted = {key: arguments[key] for key in ("img_size", "patch_size") if key in arguments}
    try:
        net = _on_meta(name, arguments).eval()
        logits = net(torch.empty(2, channels, *size, device="meta"))
    except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError, IndexError) as error:
        setting = "model.patch_size" if "patch_size" in wanted else "model.name"
        given = f"{name} for {channels}x{size[0]}x{size[1]} images" + (f" with {wanted}" if wanted else "")
        remedy = f"another model.img_size, model.patch_size or net (timm: {error})"
        raise UserError(setting, given, "a net that takes such images", remedy) from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        raise UserError("model.name", name, "a net that classifies: one tensor (B, K)")


def _fetched(name: str, arguments: dict[str, Any]) -> nn.Module:
    import timm

    try:
        return timm.create_model(name, pretrained=True, **arguments)
    except Exception as error:
        # Hub, cache and network fail in a dozen types of several libraries; to the user they are one thing.
        reason = str(error).strip().split("\n")[0]
        given = f"true, but the weights of {name} cannot be had ({type(error).__name__}: {reason[:160]})"
        remedy = "model.weights=FILE, a network, or HF_HOME=FOLDER that holds them"
        raise UserError("model.pretrained", given, "false, or weights within reach", remedy) from error
