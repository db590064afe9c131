"""train(): epochs of steps, from a recipe to a run directory."""

import time
from pathlib import Path
from typing import Any

import torch

from ..data import to_batch
from ..machine import engine
from ..noise import mix_integers
from ..recipe.recipe import Recipe, load_recipe
from ..runs.run import Run, command_line, default_out
from ..settings.errors import NonFinite, UserError
from ..types import Batch
from .assembly import assemble
from .epoch_end import end_epoch
from .recovery import roll_back
from .session import Session
from .step import joints_of, step_of

_STEP, _INIT = 1, 2
"""Streams of the seed: the randomness of a step, the initial weights."""


def train(
    recipe: Recipe | str,
    out: str | Path | None = None,
    *,
    name: str | None = None,
    resume: bool = False,
    max_minutes: float | None = None,
    quiet: bool = False,
) -> Path:
    """Train a classifier as ``recipe`` says and write a run directory.

    Args:
        recipe: Every setting of the run, or the name of a shipped recipe or a YAML file;
            ``load_recipe("digits/pgd_at", ["epochs=5"])`` makes one.
        out: The run directory, absent or empty; by default a new one under ``runs/``.
        name: For the default folder; the recipe's name if one was given.
        resume: Continue the run in ``out`` exactly: the final weights are those of an uninterrupted run.
        max_minutes: Save a checkpoint and leave after so long.
        quiet: No progress on stderr.

    Returns:
        The run directory.

    Raises:
        UserError: For settings or data that do not fit, or an ``out`` that holds something else.
        Stop: After a signal or ``max_minutes``, once the state is saved.
        NonFinite: If a loss or gradient was not finite and the guards say stop.
    """
    deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    if isinstance(recipe, str):
        name, recipe = name or recipe, load_recipe(recipe)
    if resume and out is None:
        raise UserError("--resume", "no --out", "the folder of the run to continue", "--out RUN --resume")
    folder = Path(out) if out is not None else default_out(name or "recipe", recipe.seed)
    if not engine.is_child():
        Run.create(folder, recipe, resume=resume, command=command_line())
    if resume and Run(folder).info().get("status") == "finished":
        return folder
    fabric = engine.start(recipe.engine)
    run = Run(Path(fabric.broadcast(str(folder))))
    with torch.random.fork_rng(devices=_cuda_devices(fabric)):
        session = assemble(fabric, recipe, run, seed=seed_of(recipe.seed, _INIT), deadline=deadline, quiet=quiet)
        with session:
            _train(session)
    return run.path


def _train(session: Session) -> None:
    """Epochs until the end, with rollbacks if the guards allow them."""
    while not session.done:
        try:
            _train_epoch(session)
            session.count_epoch()
        except NonFinite as error:
            roll_back(session, error)  # raises if it may not
            continue
        end_epoch(session)
    session.finish()


def _train_epoch(session: Session) -> None:
    recipe, state = session.recipe, session.progress
    for pixels, labels, rows in session.loader.epoch(state.epoch, state.step_in_epoch):
        torch.manual_seed(seed_of(recipe.seed, _STEP, state.step, session.fabric.global_rank))
        progress = state.step / session.total_steps
        x, y = to_batch(pixels, labels, recipe.augment, session.num_classes)
        if recipe.engine.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        session.set_lr((state.step + 0.5) / session.total_steps)
        method = session.next_method(progress)
        logged = step_of(method)(
            session.fabric,
            session.model,
            session.optimizer,
            Batch(x, y, rows, progress, session.memory),
            method=method,
            joints=joints_of(recipe, method, session.averager),
        )
        session.after_step(logged, len(x))


def seed_of(*values: int) -> int:
    """A seed torch accepts, made from the user's seed and where it is used."""
    return mix_integers(*values) % (1 << 63)


def _cuda_devices(fabric: Any) -> list[int]:
    return [fabric.device.index or 0] if fabric.device.type == "cuda" else []
