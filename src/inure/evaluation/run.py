"""evaluate(): model x data x suite -> Evaluation.

Robust accuracy is only ever the pointwise worst case, over all examples.
"""

import copy
import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from .. import config
from ..console import Bars
from ..data import ImageSet
from ..errors import UserError, unknown_name
from ..models import Classifier
from ..models.adapt import fold
from ..models.modes import attack_mode
from ..threat import Geometry, describe_threat, parse_threat
from ..types import Criterion
from .cascade import Cascade
from .examples import Examples
from .flags import flag, probe
from .journal import Journal
from .pictures import Pictures
from .results import read_results, set_aside, write_results
from .suites import SUITES, Member
from .summary import outcomes, standing, summarize
from .verdicts import Metered

_PICTURES = 16
Net = TypeVar("Net", bound=nn.Module)


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
    images: Tensor | np.ndarray | ImageSet,
    labels: Tensor | np.ndarray | None = None,
    *,
    suite: str = "quick",
    threat: Geometry | str,
    seed: int = 0,
    batch_size: int = 128,
    mode: Any = None,
    device: torch.device | str | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    index: Tensor | np.ndarray | None = None,
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
        images: (N, C, H, W) float in [0, 1], a tensor or array, or an ``ImageSet``, whose readout the model is
            asked through.
        labels: (N,) classes, beside a tensor of images.
        suite: A name of ``inure list suites``.
        threat: What the adversary may do: ``Linf(epsilon=8 / 255)`` or ``"linf:8/255"``.
        seed: Of the random starts.
        batch_size: Examples attacked at once; halved by itself when memory runs out.
        mode: A mix for nets with domains: a name or weights by name; None is the first domain.
        device: Where to compute; None: where the model is.
        out: Folder for ``summary.json``, ``outcomes.parquet`` and ``examples.safetensors``; those of an earlier
            evaluation there move to ``previous``.
        resume: Continue what a killed evaluation left in ``out``.
        index: (N,) names of the examples; positions by default.
        workers: Which of several processes this is.
        flags: What the caller knows to be wrong, {name, severity, detail}; joins those found here.
        command: Kept in the summary: what to type to repeat this.
        quiet: No progress bars.

    Raises:
        UserError: For images outside [0, 1], labels or a net that do not fit, an unknown suite, or another
            protocol in ``out`` when resuming.
    """
    workers, out = workers or Workers(), Path(out) if out is not None else None
    _check_settings(suite, batch_size, workers, out)
    threat = _geometry(threat)
    examples = Examples.of(images, labels, index)
    place = torch.device(device) if device is not None else _device_of(model)
    if isinstance(images, ImageSet):
        model = _asked_as(model, images)
    if isinstance(model, Classifier) and model.domains:
        model, applied = fold(model, mode), None
    else:
        applied = mode
    metered = Metered(in_float32(model, place), applied)
    classes = _check_model(metered, examples, place)
    members, left_out = _fitting(SUITES[suite](threat), classes)
    protocol = _protocol(model, examples, members, suite, threat, seed, mode, place)
    if resume and out is not None and (finished := read_results(out, protocol)):
        table, summary = finished
        pictures = Pictures(out, examples.index, resume=True)
        return Evaluation(standing(table, examples.index), summary, table, pictures.columns())
    bars = Bars(quiet=quiet or workers.rank > 0)
    if out is not None and not resume and workers.rank == 0 and (previous := set_aside(out)):
        bars.say(f"the results that were in {out} are now in {previous}")
    averages = any(getattr(member.attack, "eot_samples", 1) > 1 for member in members)
    doubts = [*flags, *left_out, *(probe(metered, examples, place, averages=averages) if members else [])]
    journal = Journal(out, workers.rank, workers.world_size)
    journal.begin(protocol, resume=resume)
    rows = torch.arange(workers.rank, len(examples), workers.world_size)
    pictures = Pictures(out if workers.rank == 0 else None, examples.index[rows[:_PICTURES]], resume=resume)
    with bars:
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
    order = ["clean", *(m.name for m in members)]
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
        standing(table, examples.index), summarize(records, table, order, fixed, doubts), table, pictures.columns()
    )
    if out is not None and workers.rank == 0:
        write_results(out, table, result.summary)
    workers.barrier()  # the others may be reading the journals until here
    if workers.rank == 0:
        journal.clear()
    return result


def weights_hash(model: nn.Module) -> str:
    """sha256 over the names and bytes of a net's state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check_settings(suite: str, batch_size: int, workers: Workers, out: Path | None) -> None:
    if suite not in SUITES:
        raise unknown_name("--suite", suite, SUITES)
    if batch_size < 1:
        raise UserError("--batch-size", batch_size, "a whole number >= 1")
    if workers.world_size > 1 and out is None:
        raise UserError("out", None, "a folder that all processes see: their results meet there")


def _geometry(threat: Geometry | str) -> Geometry:
    if isinstance(threat, str):
        return parse_threat(threat, "threat")
    if not isinstance(threat, Geometry):
        raise UserError("threat", threat, "Linf, L2, L1, or a text KIND:EPSILON", "linf:8/255")
    return threat


def _asked_as(model: nn.Module, images: ImageSet) -> nn.Module:
    """``model``, its outputs read as the classes of ``images``."""
    if images.accepted is not None:
        allowed = "a set with one right label for each image, since verdicts are by label"
        raise UserError("--data", f"{images.name}, which has several", allowed)
    if images.readout is None:
        return model
    try:
        return (model if isinstance(model, Classifier) else Classifier(model)).read_as(images.readout)
    except UserError as error:
        raise error.at("--data") from None


def in_float32(model: Net, device: torch.device) -> Net:
    """``model`` itself if it is in float32 on ``device``, else a copy that is."""
    tensors = [*model.parameters(), *model.buffers()]
    wanted = all(t.device == device and (not t.is_floating_point() or t.dtype == torch.float32) for t in tensors)
    return model if wanted else copy.deepcopy(model).to(device=device).float()


def _device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _fitting(members: list[Member], classes: int) -> tuple[list[Member], list[dict[str, str]]]:
    """The attacks that make sense for so many classes, and a flag for the others."""
    fitting = [member for member in members if classes >= member.classes]
    names = ", ".join(f"{m.name} (needs {m.classes})" for m in members if m not in fitting)
    return fitting, [flag("few_classes", f"{classes} classes: left out {names}")] if names else []


def _check_model(model: Metered, examples: Examples, device: torch.device) -> int:
    """How many classes there are.

    By one forward of a few copies of the first image: what cannot work is said before anything is written.
    """
    images = examples.images(torch.zeros(8, dtype=torch.long), device)
    shape = tuple(images.shape[1:])
    try:
        with attack_mode(model, "eval"), torch.no_grad():
            logits = model(images)
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError("model", f"{type(error).__name__}: {reason}", f"a net for images of {shape}") from error
    model.forwards = 0
    if logits.ndim != 2 or len(logits) != len(images):
        raise UserError("model", f"outputs of shape {tuple(logits.shape)}", f"logits (B, K) of images (B, *{shape})")
    low, high = int(examples.labels.min()), int(examples.labels.max())
    if low < 0 or high >= logits.shape[1]:
        allowed = f"0 to {logits.shape[1] - 1}: the net has {logits.shape[1]} outputs"
        raise UserError("labels", f"classes {low} to {high}", allowed, "the data set that the net was trained on")
    return logits.shape[1]


def _describe(loss: Criterion) -> dict[str, Any]:
    """A loss by name with the values of its options: ``{"name": "margin", "kappa": 50.0}``."""
    options = inspect.signature(loss).parameters.values()
    return {"name": loss.__name__, **{o.name: o.default for o in options if o.default is not o.empty}}


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

    readout = model.readout if isinstance(model, Classifier) else None
    return {
        "suite": suite,
        "threat": config.dump(threat),
        "attacks": [{"name": m.name, "loss": _describe(m.loss), **config.dump(m.attack)} for m in members],
        "precision": "float32",
        "net_mode": "eval",
        "mode": mode,
        "seed": seed,
        # Absent where there is none, so that evaluations from before there were any can be resumed.
        **({"readout": {"name": readout.name, "kind": readout.kind}} if readout is not None else {}),
        "examples": len(examples),
        "data_hash": examples.data_hash,
        "index_hash": hashlib.sha256(examples.index.numpy().tobytes()).hexdigest(),
        "weights_hash": weights_hash(model),
        "device": device.type,
        "versions": {"inure": metadata.version("inure"), "torch": torch.__version__},
    }
