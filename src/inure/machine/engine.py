"""Devices, precision, compilation and processes: the one place that knows Lightning Fabric is there.

Fabric is the engine of several processes and of bfloat16. A run on one device in float32 has no use for it.
"""

import inspect
import logging
import os
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ..settings.config import Settings, Whole
from ..settings.errors import UserError

_PRECISIONS = {
    "32": "32",
    "float32": "32",
    "32-true": "32",
    "tf32": "tf32",
    "bf16": "bf16",
    "bf16-mixed": "bf16",
    "bfloat16": "bf16",
}


def _precision(value: Any) -> str:
    if str(value) not in _PRECISIONS:
        raise UserError("", value, "32 | tf32 | bf16")
    return _PRECISIONS[str(value)]


class Engine(Settings):
    """Where and how a run computes."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: Annotated[Whole, Field(ge=1)] | Literal["auto"] = 1
    """Processes, one a device. ``torchrun`` and ``fabric run`` decide for themselves."""
    precision: Annotated[Literal["32", "tf32", "bf16"], BeforeValidator(_precision)] = "32"
    """tf32: short mantissas in a GPU's products. bf16: autocast for attack and update; weights, losses and
    projections stay float32."""
    deterministic: bool = True
    """The same kernels every time on a GPU, where there is a choice; attention's backward may still differ."""
    compile: bool = False
    """torch.compile the net; the attack's loop stays eager. Pays on GPUs and long runs."""
    channels_last: bool = False
    """Memory format of images and convolutions; faster for CNNs."""
    threads: Annotated[Whole, Field(ge=1)] | None = None
    """CPU threads a process; None: torch's choice."""


def start(engine: Engine) -> Any:
    """A launched Fabric, or ``OneDevice`` where one will do: from here on the code runs once in every process.

    Raises:
        UserError: If the accelerator or so many devices do not exist here.
    """
    import torch

    if engine.threads is not None:
        torch.set_num_threads(engine.threads)
    options: dict[str, Any] = {"accelerator": accelerator_of(engine)}
    options["devices"], options["num_nodes"] = _processes(engine, options["accelerator"])
    options["precision"] = "bf16-mixed" if engine.precision == "bf16" else "32-true"
    if options["devices"] * options["num_nodes"] > 1:
        options["strategy"] = _data_parallel()
    _choose_kernels(engine)
    if options["devices"] * options["num_nodes"] == 1 and options["precision"] == "32-true" and not is_launched():
        return _one_device(options["accelerator"])
    import lightning_fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # a mistake is one line, also in many processes
    # What `fabric run` was told on its command line goes before the recipe; Fabric refuses to hear both
    told = {name for name in options if f"LT_{name.upper()}" in os.environ}
    fabric = lightning_fabric.Fabric(**{name: value for name, value in options.items() if name not in told})
    if "LT_CLI_USED" not in os.environ:  # `fabric run` has launched already
        fabric.launch()
    return fabric


def _one_device(accelerator: str) -> Any:
    """Without Fabric, whose import takes as long as torch's."""
    import torch

    from .one_device import OneDevice

    device = torch.device("cpu") if accelerator == "cpu" else torch.device(accelerator, 0)  # as tensors name theirs
    if accelerator == "cuda":
        torch.cuda.set_device(device)
    return OneDevice(device)


def _choose_kernels(engine: Engine) -> None:
    """Whether a GPU may shorten mantissas and pick kernels as it likes; without one nothing changes."""
    import torch

    if torch.cuda.is_available():
        torch.backends.cudnn.allow_tf32 = engine.precision == "tf32"
        torch.set_float32_matmul_precision("high" if engine.precision == "tf32" else "highest")
        torch.backends.cudnn.deterministic = engine.deterministic
        torch.backends.cudnn.benchmark = not engine.deterministic


def _processes(engine: Engine, accelerator: str) -> tuple[int, int]:
    """(processes a node, nodes): torchrun's and ``fabric run``'s if one of them started this, else the recipe's."""
    import torch

    if "LT_CLI_USED" in os.environ:
        return int(os.environ.get("LT_DEVICES", 1)), int(os.environ.get("LT_NUM_NODES", 1))
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ.get("GROUP_WORLD_SIZE", 1))
    if engine.devices == "auto":
        return max(torch.cuda.device_count(), 1) if accelerator == "cuda" else 1, 1
    return engine.devices, 1


def is_launched() -> bool:
    """Whether ``torchrun`` or ``fabric run`` decides how many processes there are."""
    return "LT_CLI_USED" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ


def is_child() -> bool:
    """Whether another process of the same run started this one, so that checks and printing are its business."""
    return int(os.environ.get("LOCAL_RANK", 0)) > 0 or int(os.environ.get("RANK", 0)) > 0


def accelerator_of(engine: Engine) -> str:
    """``cpu``, ``cuda`` or ``mps``: what was asked for, or the best there is.

    Raises:
        UserError: If this machine lacks it.
    """
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if engine.accelerator == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[engine.accelerator]:
        found = " | ".join(name for name, there in available.items() if there)
        raise UserError("engine.accelerator", engine.accelerator, f"what this machine has: {found}", "auto")
    count = torch.cuda.device_count()
    if engine.accelerator == "cuda" and engine.devices != "auto" and engine.devices > count:
        raise UserError("engine.devices", engine.devices, f"1 to {count}: the GPUs of this machine")
    return engine.accelerator


def _data_parallel() -> Any:
    from lightning_fabric.strategies import DDPStrategy
    from torch.nn.parallel import DistributedDataParallel

    # Broadcasting BatchNorm buffers between forwards breaks attacks on CUDA; torch renamed the option in 2.15
    parameters = inspect.signature(DistributedDataParallel.__init__).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
    options: dict[str, Any] = {name: False}
    return DDPStrategy(**options)


def prepare(engine: Engine, model: Any) -> Any:
    """``model`` in the memory format and compiled as asked, before Fabric wraps it."""
    import torch

    if engine.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if engine.compile:
        model.compile()
    return model
