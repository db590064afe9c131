"""The nets of our own: one table, from a name to its family, its line of text and its settings."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..settings.errors import UserError

if TYPE_CHECKING:
    from torch import nn


class OwnNet(NamedTuple):
    """One row of the table."""

    family: str
    """A key of ``_families``."""
    shape: dict[str, Any]
    """What tells it from others of the family."""
    text: str
    takes: dict[str, Any]
    """Settings of ``Model`` that mean something here, with their defaults."""
    sized: bool = False
    """Whether the net is built for one image size."""


_RESNET = {"norm": "batch"}
_WIDE = {"norm": "batch", "activation": "relu"}
_WRN28, _WRN34 = {"depth": 28, "width": 10}, {"depth": 34, "width": 10}
_VIT_TINY = dict(dim=192, depth=12, heads=3)
_VIT_SMALL = dict(dim=384, depth=12, heads=6)
_VIT_DIGITS = dict(dim=48, depth=3, heads=4)
_VIT_LEGACY = dict(dim=768, depth=8, heads=8, mlp_ratio=3.0, qkv_bias=False, eps=1e-5)
_VIT = {"patch_size": 4, "drop_path": 0.0, "stem": None}

OWN_NETS = {
    "preact_resnet18": OwnNet("preact_resnet", {}, "pre-activation ResNet-18, 3x3 stem, 11.17M; norm", _RESNET),
    "cifar_resnet18": OwnNet("cifar_resnet", {}, "ResNet-18, 3x3 stem, no max-pool, 11.17M; norm", _RESNET),
    "wrn28_10": OwnNet("wide", _WRN28, "WideResNet-28-10, 36.48M; norm, activation", _WIDE),
    "wrn34_10": OwnNet("wide", _WRN34, "WideResNet-34-10, 46.16M (any wrnDEPTH_WIDTH works)", _WIDE),
    "vit_tiny": OwnNet("vit", _VIT_TINY, "ViT of width 192, 12 blocks, 5.4M; patch_size 4, or 2, 8; stem", _VIT, True),
    "vit_small": OwnNet("vit", _VIT_SMALL, "ViT of width 384, 12 blocks, 21M; patch_size 4, or 2, 8; stem", _VIT, True),
    "vit_small_legacy": OwnNet(
        "vit",
        _VIT_LEGACY,
        "ViT of width 768, 8 blocks, 47M, the ViT-S of Mo et al.; patch_size; stem",
        _VIT,
        True,
    ),
    "vit_digits": OwnNet(
        "vit", _VIT_DIGITS, "ViT of width 48, 3 blocks, 0.09M, for 8 x 8", {**_VIT, "patch_size": 2}, True
    ),
    "cnn_digits": OwnNet(
        "cnn_digits", {}, "three convolutions and two layers, 0.16M for 16 x 16 digits; norm", _RESNET, True
    ),
    "cnn_tiny": OwnNet("cnn_tiny", {}, "two convolutions, 5k, for tests and examples", {}),
}


def own_net(name: str) -> OwnNet | None:
    """The row of ``name``, generic wide nets included; None if it is not ours."""
    wide = re.fullmatch(r"wrn([1-9][0-9]*)_([1-9][0-9]*)", name)
    if name not in OWN_NETS and wide:
        depth, width = int(wide[1]), int(wide[2])
        return OwnNet("wide", {"depth": depth, "width": width}, f"WideResNet-{depth}-{width}", _WIDE)
    return OWN_NETS.get(name)


def build_own(
    name: str, own: OwnNet, given: dict[str, Any], *, num_classes: int, channels: int, size: tuple[int, int]
) -> nn.Module:
    """The net, built with the settings ``given`` (those that are not their "off" value) over its defaults.

    Raises:
        UserError: If a given setting means nothing for this net.
    """
    for setting, value in given.items():
        if setting not in own.takes:
            knobs = ", ".join(own.takes) or "none"
            allowed = f"nothing here: {name} has no {setting} (its settings: {knobs})"
            off = "0" if setting == "drop_path" else "null"
            raise UserError(f"model.{setting}", value, allowed, f"model.{setting}={off}")
    arguments = {**own.takes, **given}
    if own.sized:
        arguments["img_size"] = size
    return _families()[own.family](**own.shape, num_classes=num_classes, in_channels=channels, **arguments)


def catalogue() -> list[tuple[str, str]]:
    """Name and one line of text for each net of ours, then a line about timm's."""
    ours = [(name, own.text) for name, own in OWN_NETS.items()]
    return [
        *ours,
        ("TIMM_NAME", "any net of timm, such as deit_tiny_patch16_224; or FILE.py:function for your own"),
    ]


def _families() -> dict[str, Callable[..., nn.Module]]:
    from .cifar_resnet import CifarResNet18
    from .cnn_digits import CNNDigits
    from .cnn_tiny import CNNTiny
    from .preact_resnet import PreActResNet18
    from .small_vit import small_vit
    from .wide_resnet import WideResNet

    return {
        "cifar_resnet": CifarResNet18, "cnn_digits": CNNDigits, "cnn_tiny": CNNTiny, "preact_resnet": PreActResNet18,
        "vit": small_vit, "wide": WideResNet,
    }  # fmt: skip
