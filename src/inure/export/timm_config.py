"""What timm must be told to make the net of a run: its ``config.json``."""

from typing import Any

import torch
from torch import nn

from ..models.adapters.stacks import Stacks
from ..models.from_file import is_file_function
from ..models.timm_net import constructor_arguments
from ..runs.run import Run
from ..settings.errors import UserError


def timm_config(run: Run, net: nn.Module, mean: list[float], std: list[float]) -> dict[str, Any]:
    """The ``config.json`` of a folder that timm loads; ``model_args`` make ``net`` of the name ``architecture``.

    Raises:
        UserError: If no name and arguments do.
    """
    import timm

    if any(isinstance(module, Stacks) for module in net.modules()):
        raise UserError("--format", "timm", "safetensors: prompts and bottlenecks are no part of a net of timm")
    model, info = run.recipe().model, run.info()
    channels, height, width = info["input_shape"]
    architecture, arguments = _architecture(model.name, net)
    refusal = UserError("--format", "timm", f"safetensors: no name and settings of timm make this {model.name}")
    if architecture is None or not timm.is_model(architecture):
        raise refusal
    arguments |= {"in_chans": channels}
    takes = constructor_arguments(type(net))
    sizes = {"img_size": [height, width], "patch_size": model.patch_size, "window_size": model.window_size}
    for name, value in sizes.items():
        if value is not None and name not in arguments and name in takes:
            arguments[name] = value
    if not _makes(architecture, {**arguments, "num_classes": info["num_classes"]}, net, (channels, height, width)):
        raise refusal
    return {
        "architecture": architecture,
        "num_classes": info["num_classes"],
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [channels, height, width], "mean": mean * (channels // len(mean)),
            "std": std * (channels // len(std)), "num_classes": info["num_classes"],
        },
    }  # fmt: skip


def _makes(architecture: str, arguments: dict[str, Any], net: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether timm makes, from the name and the arguments, a net that computes what ``net`` does with its weights."""
    import timm

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
        try:
            made = timm.create_model(architecture, **arguments).eval()
            made.load_state_dict(net.state_dict())
            return torch.allclose(made(x), net(x), equal_nan=True)
        except (TypeError, ValueError, RuntimeError, AssertionError):
            return False


def _architecture(name: str, net: nn.Module) -> tuple[str | None, dict[str, Any]]:
    """A name of timm and the arguments that make this net of it."""
    if is_file_function(name):
        return None, {}
    if not name.startswith("vit_") or "patch" in name:
        return name.partition(".")[0], {}
    vit: Any = net  # ours are timm's own net with other widths
    if not hasattr(vit, "blocks"):
        return None, {}
    return "vit_tiny_patch16_224", {
        "embed_dim": vit.embed_dim, "depth": len(vit.blocks), "num_heads": vit.blocks[0].attn.num_heads,
        "patch_size": vit.patch_embed.patch_size[0],
    }  # fmt: skip
