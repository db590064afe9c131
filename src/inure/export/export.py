"""export(): a soup as a plain net for others to load, or the parameters per domain alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..machine import files
from ..models.adapt import adapter_state
from ..models.adapters.stacks import Stacks
from ..models.from_file import is_file_function
from ..models.timm_net import constructor_arguments
from ..runs.checkpoints import tensor_bytes
from ..runs.load import in_mode, load, usual_mode
from ..runs.run import Run
from ..settings.errors import UserError

FORMATS = ("timm", "safetensors", "adapters", "robustbench")


def export(
    target: str | Path,
    format: str,
    *,
    mode: Any = None,
    out: str | Path | None = None,
    info: Mapping[str, str] | None = None,
) -> Path:
    """Write the net of a run.

    ``timm``: a folder with ``config.json`` and ``model.safetensors``; ``timm.create_model("local-dir:FOLDER",
    pretrained=True)`` makes the net, whose images must be normalised with the mean and std of its
    ``pretrained_cfg``. ``safetensors``: the state of the folded classifier, normalisation included.
    ``adapters``: only what exists once per domain, to be loaded into an adapted net with ``strict=False``.
    ``robustbench``: a submission, see ``export_robustbench``.

    Args:
        target: A run directory.
        format: One of the four.
        mode: The domain, or weights by name, that a plain net is made of; the robust domain by default.
        out: The folder or file; ``RUN/export/FORMAT`` by default.
        info: For ``robustbench`` alone: what a run cannot know, such as title and authors.

    Returns:
        The path written.

    Raises:
        UserError: If the net has no such mode, or no plain net of timm computes what it computes.
    """
    if format not in FORMATS:
        raise UserError("--format", format, " | ".join(FORMATS))
    if format == "robustbench":
        from .robustbench import export_robustbench

        return export_robustbench(target, mode=mode, out=out, info=info).folder
    if info:
        raise UserError("--info", ", ".join(info), f"nothing with --format {format}", "--format robustbench")
    run = Run.open(Path(target), "RUN")
    classifier = load(target)
    if format == "adapters":
        if not classifier.domains:
            raise UserError("--format", format, "timm | safetensors: this net has no domains")
        path = Path(out) if out else run.path / "export" / "adapters.safetensors"
        files.write_bytes(path, tensor_bytes(adapter_state(classifier), domains=json.dumps(classifier.domains)))
        return path
    plain = in_mode(classifier, mode)
    if format == "safetensors":
        path = Path(out) if out else run.path / "export" / "model.safetensors"
        files.write_bytes(path, tensor_bytes(plain.state_dict(), mode=json.dumps(mode or usual_mode(classifier))))
        return path
    path = Path(out) if out else run.path / "export" / "timm"
    config = timm_config(run, plain.net, plain.mean.flatten().tolist(), plain.std.flatten().tolist())
    files.write_bytes(path / "model.safetensors", tensor_bytes(plain.net.state_dict()))
    files.write_json(path / "config.json", config)
    return path


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
