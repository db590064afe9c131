"""What an evaluation was: everything that decides its verdicts, as data. Results of different protocols never mix."""

from __future__ import annotations

import hashlib
import inspect
from importlib import metadata
from typing import Any

from ..libraries import nn, torch
from ..settings import config
from ..types import Criterion
from .conditions import Conditions
from .examples import Examples
from .suites import Member


def weights_hash(model: nn.Module) -> str:
    """sha256 over the names and bytes of a net's state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def protocol_of(
    conditions: Conditions, model: nn.Module, weights: str, examples: Examples, members: list[Member]
) -> dict[str, Any]:
    """The entry ``protocol`` of ``summary.json``; ``weights`` is the ``weights_hash`` of ``model``."""
    from ..models import Classifier

    searched, device = conditions.search_precision, conditions.device
    assert device is not None
    readout = model.readout if isinstance(model, Classifier) else None
    return {
        "suite": conditions.suite,
        "threat": config.dump(conditions.threat),
        "attacks": [{"name": m.name, "loss": _describe(m.loss), **config.dump(m.attack)} for m in members],
        "precision": "float32",
        # So are these where they are as usual
        **({"search_precision": searched} if searched != "float32" else {}),
        **({"memory_format": "channels_last"} if conditions.channels_last else {}),
        **({"source_hash": conditions.source_hash} if conditions.source_hash is not None else {}),
        "net_mode": "eval",
        "mode": conditions.mode,
        "seed": conditions.seed,
        # Absent where there is none, so that evaluations from before there were any can be resumed
        **({"readout": {"name": readout.name, "kind": readout.kind}} if readout is not None else {}),
        "examples": len(examples),
        "data_hash": examples.data_hash,
        "index_hash": hashlib.sha256(examples.index.contiguous().numpy().data).hexdigest(),
        "weights_hash": weights,
        "device": device.type,
        "versions": {"inure": metadata.version("inure"), "torch": torch.__version__},
    }


def _describe(loss: Criterion) -> dict[str, Any]:
    """A loss by name with the values of its options: ``{"name": "margin", "kappa": 50.0}``."""
    options = inspect.signature(loss).parameters.values()
    return {"name": loss.__name__, **{o.name: o.default for o in options if o.default is not o.empty}}
