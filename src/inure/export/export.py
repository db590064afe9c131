"""export(): a soup as a plain net for others to load, or the parameters per domain alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..machine import files
from ..models.adapt import adapter_state
from ..runs.checkpoints import tensor_bytes
from ..runs.load import in_mode, load, usual_mode
from ..runs.run import Run
from ..settings.errors import UserError
from .timm_config import timm_config

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
