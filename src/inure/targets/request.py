"""Request: what a person asks ``inure evaluate`` for, in one record; and the command that asks for it again."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..settings.errors import UserError

_REPEATED = (
    "suite", "threat", "mode", "seed", "data", "examples", "weights", "shift", "transfer_from", "search_precision",
    "channels_last", "store_adversarial", "audit", "out",
)  # fmt: skip
"""What decides the verdicts and where they go."""
_USUAL = {"search_precision": "float32"}


@dataclass(frozen=True)
class Request:
    """The arguments of ``inure evaluate``, explained by its ``--help``. None: as the run's recipe has it."""

    target: str
    suite: str | None = None
    shift: Sequence[str] = ()
    data: str | None = None
    examples: int | None = None
    threat: str | None = None
    mode: str | None = None
    weights: Path | None = None
    transfer_from: Sequence[str] = ()
    out: Path | None = None
    resume: bool = False
    audit: bool = False
    store_adversarial: bool = False
    batch_size: int = 128
    seed: int = 0
    search_precision: str = "float32"
    channels_last: bool = False
    device: str = "auto"
    devices: int = 1
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.examples is not None and self.examples < 1:
            raise UserError("--examples", self.examples, "a whole number >= 1")

    def command(self) -> str:
        """The command line that repeats the evaluation."""
        words = []
        for name in _REPEATED:
            value = getattr(self, name)
            if value != _USUAL.get(name):
                words += _words(f"--{name.replace('_', '-')}", value)
        return shlex.join(["inure", "evaluate", self.target, *words])


def _words(option: str, value: Any) -> list[str]:
    """None and False are left out, of a list every entry is given."""
    if value is True:
        return [option]
    if isinstance(value, list | tuple):
        return [word for one in value for word in (option, str(one))]
    return [] if value is None or value is False else [option, str(value)]
