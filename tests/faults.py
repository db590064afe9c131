"""Faults for commands in processes of their own: ``prepare`` arguments of ``runs.Command``."""

import errno
import importlib
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch


def die_at_write(number: int) -> None:
    """SIGKILL at the ``number``-th time that a file is flushed or renamed; what was being written is torn."""

    def strike(descriptor: int | None) -> NoReturn:
        if descriptor is not None:
            # The last bytes only: what an appended file held before is on the disk
            os.ftruncate(descriptor, max(os.fstat(descriptor).st_size - 20, 0))
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    _at_write(number, strike)


def no_space_from_write(number: int) -> None:
    """ENOSPC at the ``number``-th time that a file is flushed or renamed, and ever after."""

    def fail(descriptor: int | None) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    _at_write(number, fail)


def _at_write(number: int, strike: Callable[[int | None], NoReturn]) -> None:
    fsync, replace, count = os.fsync, os.replace, 0

    def counted(descriptor: int | None) -> None:
        nonlocal count
        count += 1
        if count >= number:
            strike(descriptor)

    def new_fsync(descriptor: int) -> None:
        counted(descriptor)
        fsync(descriptor)

    def new_replace(source: Any, target: Any) -> None:
        counted(None)
        replace(source, target)

    os.fsync, os.replace = new_fsync, new_replace


def before_step(number: int, action: Callable[[Any], object], *, once: bool = False) -> None:
    """Call ``action(model)`` before step ``number`` (from 1), whenever training comes there, or the first time only."""
    module = importlib.import_module("inure.training.step")
    step, struck = module.train_step, False

    def watched(fabric: Any, model: Any, optimizer: Any, batch: Any, **joints: Any) -> Any:
        nonlocal struck
        if _step_of(batch.progress) == number and not (once and struck):
            struck = True
            action(model)
        return step(fabric, model, optimizer, batch, **joints)

    module.train_step = watched


def _step_of(progress: float) -> int:
    return round(progress * _TOTAL) + 1


_TOTAL = 44
"""Steps of processes.TINY."""


def signal_at_step(number: int, signal_number: int) -> None:
    """The process sends itself a signal during a step."""
    before_step(number, lambda _: os.kill(os.getpid(), signal_number))


def infinite_weight(model: torch.nn.Module) -> None:
    """One weight becomes infinite, as after a step that was far too large."""
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = torch.inf


def diverge_at_step(number: int, kill_at: int | None = None) -> None:
    """The net diverges once, at step ``number``; SIGKILL when step ``kill_at`` comes for the second time."""
    before_step(number, infinite_weight, once=True)
    if kill_at is not None:
        before_step(kill_at, partial(_count_down, [1]))


def _count_down(left: list[int], _: Any) -> None:
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)


def decode_on_demand(interrupt_at: int | None = None) -> None:
    """As if no data set fitted in memory; SIGINT to the whole process group at a step, as Ctrl-C sends it."""
    sources = importlib.import_module("inure.data.sources")
    load = sources.load
    for name in ("inure.data.settings", "inure.data.sources"):
        importlib.import_module(name).load = partial(load, memory_limit=1)
    if interrupt_at is not None:
        os.setpgrp()
        before_step(interrupt_at, lambda _: os.killpg(0, signal.SIGINT))


def keep_final_weights(folder: Path) -> None:
    """Every process writes the net it ends with to ``rankR.safetensors``."""
    from safetensors.torch import save_file

    session = importlib.import_module("inure.training.session").Session
    finish = session.finish

    def kept(self: Any) -> None:
        path = folder / f"rank{self.fabric.global_rank}.safetensors"
        save_file({name: t.contiguous() for name, t in self.model.module.state_dict().items()}, path)
        finish(self)

    session.finish = kept


def stderr_to(path: str) -> None:
    """Standard error goes to a file or a terminal."""
    os.dup2(os.open(path, os.O_WRONLY | os.O_NOCTTY), 2)
