"""evaluate(): model x data x suite -> Evaluation.

Robust accuracy is only ever the pointwise worst case, over all examples.
"""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from .. import config
from ..console import Bars
from ..data import ImageSet
from ..errors import UserError, unknown_name
from ..models.modes import attack_mode
from ..threat import Geometry, describe_threat, parse_threat
from .cascade import Cascade
from .examples import Examples
from .journal import Journal
from .pictures import Pictures
from .results import read_results, write_results
from .suites import SUITES, Member
from .summary import outcomes, standing, summarize
from .verdicts import Metered

_PICTURES = 16


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    robust: Tensor
    """(N,) bool: right, and standing to the end."""
    summary: dict[str, Any]
    outcomes: pa.Table
    pictures: dict[str, Tensor]


@dataclass(frozen=True)
class Workers:
    """Which of several processes this is, and how they wait for each other."""

    rank: int = 0
    world_size: int = 1
    barrier: Any = lambda: None  # noqa: E731


def evaluate(
    model: nn.Module,
    images: Tensor | ImageSet,
    labels: Tensor | None = None,
    *,
    suite: str = "quick",
    threat: Geometry | str,
    seed: int = 0,
    batch_size: int = 128,
    mode: Any = None,
    device: torch.device | str | None = None,
    out: Path | None = None,
    resume: bool = False,
    index: Tensor | None = None,
    workers: Workers | None = None,
    flags: Sequence[dict[str, str]] = (),
    command: str | None = None,
    quiet: bool = True,
) -> Evaluation:
    """Measure clean and robust accuracy.

    For each attack only the examples still standing are attacked, from their original images; a fresh float32
    forward on the returned images decides; the perturbation is checked in float64 against the threat model and
    against [0, 1]. Verdicts do not depend on ``batch_size``, the order of the examples, a resume or the number of
    processes (on one kind of device).

    Args:
        model: Images (B, C, H, W) in [0, 1] to logits (B, K), normalisation inside. Evaluated in eval mode and
            float32; left as it was found.
        images: (N, C, H, W) float in [0, 1], or an ``ImageSet``.
        labels: (N,) classes, beside a tensor of images.
        suite: A name of ``inure list suites``.
        threat: What the adversary may do: ``Linf(epsilon=8 / 255)`` or ``"linf:8/255"``.
        seed: Of the random starts.
        batch_size: Examples attacked at once; halved by itself when memory runs out.
        mode: A mix for nets with domains: a name or weights.
        device: Where to compute; None: where the model is.
        out: Folder for ``summary.json``, ``outcomes.parquet`` and ``examples.safetensors``.
        resume: Continue what a killed evaluation left in ``out``.
        index: (N,) names of the examples; positions by default.
        workers: Which of several processes this is.
        flags: What the caller knows to be wrong, {name, severity, detail}; joins those found here.
        command: Kept in the summary: what to type to repeat this.
        quiet: No progress bars.

    Raises:
        UserError: For images outside [0, 1], labels that do not fit, an unknown suite, or another protocol in
            ``out`` when resuming.
    """
    if suite not in SUITES:
        raise unknown_name("--suite", suite, SUITES)
    if batch_size < 1:
        raise UserError("--batch-size", batch_size, "a whole number >= 1")
    if isinstance(threat, str):
        threat = parse_threat(threat, "threat")
    workers = workers or Workers()
    examples = Examples.of(images, labels, index)
    if not len(examples):
        raise UserError("examples", 0, "at least one image")
    place = torch.device(device) if device is not None else _device_of(model)
    metered = Metered(_float32(model, place), mode)
    _check_labels(metered, examples, place)
    members = SUITES[suite](threat)
    order = ["clean", *(m.name for m in members)]
    protocol = _protocol(model, examples, members, suite, threat, seed, mode, place)
    journal = Journal(out, workers.rank)
    journal.begin(protocol, resume=resume)
    rows = torch.arange(workers.rank, len(examples), workers.world_size)
    pictures = Pictures(out if workers.rank == 0 else None, examples.index[rows[:_PICTURES]], resume=resume)
    with Bars(quiet=quiet or workers.rank > 0) as bars:
        Cascade(
            metered,
            examples,
            rows,
            threat=threat,
            seed=seed,
            batch_size=batch_size,
            device=place,
            journal=journal,
            pictures=pictures,
            advance=bars.attack,
        ).run(members)
    workers.barrier()
    records = journal.gather()
    table = outcomes(records, order)
    fixed = {
        "threat": describe_threat(threat),
        "suite": suite,
        "mode": mode,
        "seed": seed,
        "protocol": protocol,
        **({"command": command} if command else {}),
    }
    result = Evaluation(
        standing(table, examples.index), summarize(records, table, order, fixed, flags), table, pictures.columns()
    )
    if out is not None and workers.rank == 0:
        _write(out, result)
        journal.clear()
    workers.barrier()
    return result


def weights_hash(model: nn.Module) -> str:
    """sha256 over the names and bytes of a net's state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _write(out: Path, result: Evaluation) -> None:
    buffer = pa.BufferOutputStream()
    pq.write_table(result.outcomes, buffer)
    files.write_bytes(out / "outcomes.parquet", buffer.getvalue().to_pybytes())
    files.write_json(out / "summary.json", result.summary)


def _float32(model: nn.Module, device: torch.device) -> nn.Module:
    tensors = [*model.parameters(), *model.buffers()]
    wanted = all(t.device == device and (not t.is_floating_point() or t.dtype == torch.float32) for t in tensors)
    return model if wanted else copy.deepcopy(model).to(device=device).float()


def _device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _check_labels(model: Metered, examples: Examples, device: torch.device) -> None:
    was_training = {m: m.training for m in model.net.modules()}
    model.net.eval()
    with torch.no_grad():
        logits = model(examples.images(torch.zeros(8, dtype=torch.long), device))
    for module, training in was_training.items():
        module.training = training
    model.forwards = 0
    if logits.ndim != 2:
        raise UserError("model", f"outputs of shape {tuple(logits.shape)}", "logits (B, K)")
    low, high = int(examples.labels.min()), int(examples.labels.max())
    if low < 0 or high >= logits.shape[1]:
        allowed = f"0 to {logits.shape[1] - 1}: the net has {logits.shape[1]} outputs"
        raise UserError("labels", f"classes {low} to {high}", allowed, "the data set that the net was trained on")


def _protocol(
    model: nn.Module,
    examples: Examples,
    members: list[Member],
    suite: str,
    threat: Geometry,
    seed: int,
    mode: Any,
    device: torch.device,
) -> dict[str, Any]:
    from importlib import metadata

    return {
        "suite": suite,
        "threat": config.dump(threat),
        "attacks": [{"name": m.name, "loss": m.loss.__name__, **config.dump(m.attack)} for m in members],
        "precision": "float32",
        "net_mode": "eval",
        "mode": mode,
        "seed": seed,
        "examples": len(examples),
        "data_hash": examples.data_hash,
        "index_hash": hashlib.sha256(examples.index.numpy().tobytes()).hexdigest(),
        "weights_hash": weights_hash(model),
        "device": device.type,
        "versions": {"inure": metadata.version("inure"), "torch": torch.__version__},
    }
