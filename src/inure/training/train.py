"""train() and train_step(): the map of the library.

``train_step`` joins the axes in a fixed, visible order: craft, descend (at perturbed weights if asked), clip, step,
average. A joint that is off is None and is skipped: disabled equals absent, bit for bit.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..averaging import Averager
from ..balance import Balance
from ..data import to_batch
from ..machine import engine
from ..noise import mix_integers
from ..penalties import Forwards, Penalty, attack_terms, watched, with_penalties
from ..perturbation import Perturbation
from ..recipe.recipe import Recipe, load_recipe
from ..recipe.regime import Regime
from ..runs.run import Run, command_line, default_out
from ..settings.errors import NonFinite, UserError
from ..steps import clip_and_update
from ..types import Batch, Crafting, Losses
from .assembly import assemble
from .epoch_end import end_epoch
from .recovery import roll_back
from .session import Session, local_module

_STEP, _INIT = 1, 2
"""Streams of the seed: the randomness of a step, the initial weights."""


def train_step(
    fabric: Any,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    method: Any,
    balance: Balance,
    regime: Regime,
    crafting: Crafting | None = None,
    penalties: Sequence[Penalty] = (),
    perturbation: Perturbation | None = None,
    averager: Averager | None = None,
    clip_norm: float | None = None,
) -> dict[str, Tensor]:
    """Attack the batch, then descend on the attacked batch.

    Args:
        fabric: Gives autocast and the (synchronised) backward.
        model: The net as wrapped by Fabric.
        optimizer: Its gradients are cleared first.
        batch: Images in [0, 1], labels, rows, progress.
        method: How to craft and what to minimise.
        balance: The criteria of attack and update.
        regime: How strong the attack is at this progress.
        crafting: A trick active only while crafting.
        penalties: Terms added to the method's loss, and perhaps to the attack's.
        perturbation: Where the gradient is taken.
        averager: The weights that will be evaluated.
        clip_norm: Global L2 norm to clip at.

    Returns:
        0-d tensors to log, on the device: reading them is the caller's decision.
    """
    local = local_module(model)  # this process's own net: the attack wants no gradient synchronisation

    observers: list[Any] = [piece for piece in (method, balance.counter, *penalties) if hasattr(piece, "observe")]
    criterion = balance.train_at(batch)
    forwards = Forwards()

    # 1. inner maximisation
    with fabric.autocast():
        terms = attack_terms(penalties, method, local, batch)  # before the tricks: they change predictions
    with fabric.autocast(), _open(crafting, local, batch.progress):
        search = regime.search(method, batch.progress, crafting, terms, balance.radii(batch))
        x_adv = method.craft(local, batch, search, balance.attack_at(batch))

    # 2. outer minimisation: one forward through the wrapper
    def backward() -> Losses:
        forwards.clear()
        with watched(model, forwards, penalties) if penalties or observers else nullcontext():
            losses = method.losses(model, batch, x_adv, criterion)
        if penalties:
            with fabric.autocast():
                outer = forwards.outer(local, method, batch, x_adv, search, criterion)
                losses = with_penalties(losses, penalties, outer)
        fabric.backward(losses.total.mean())
        return losses

    # 3. at perturbed weights if asked
    optimizer.zero_grad(set_to_none=True)
    perturbed = perturbation is not None and batch.progress >= perturbation.warmup
    with perturbation.active(model, backward) if perturbation and perturbed else nullcontext():
        losses = backward()

    # 4. clip, update, average
    grad_norm = clip_and_update(model, optimizer, clip_norm)
    if averager is not None:
        averager.update(local, batch.progress)
    for observer in observers:
        observer.observe(batch, forwards.adversarial(len(x_adv))[0].detach())
    parts = {name: value.detach().mean() for name, value in losses.parts.items()}
    return {"loss": losses.total.detach().mean(), **parts, "grad_norm": grad_norm}


def step_of(method: Any) -> Any:
    """What is done with a batch: the method's own ``step`` (see ``steps/``) if it has one, else ``train_step``."""
    return getattr(method, "step", train_step)


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
            balance=recipe.balance,
            regime=recipe.regime,
            crafting=recipe.crafting if hasattr(method, "attack") else None,
            penalties=recipe.penalties,
            perturbation=recipe.perturbation,
            averager=session.averager,
            clip_norm=recipe.optimizer.clip_norm,
        )
        session.after_step(logged, len(x))


def seed_of(*values: int) -> int:
    """A seed torch accepts, made from the user's seed and where it is used."""
    return mix_integers(*values) % (1 << 63)


@contextmanager
def _open(crafting: Crafting | None, model: nn.Module, progress: float) -> Iterator[None]:
    if crafting is None:
        yield
        return
    try:
        crafting.begin(model, progress)
        yield
    finally:
        crafting.end()


def _cuda_devices(fabric: Any) -> list[int]:
    return [fabric.device.index or 0] if fabric.device.type == "cuda" else []
