"""Everything one training run holds between two steps: built, counted, saved, restored, rolled back."""

import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..averaging import Averager
from ..data import Loader
from ..display.console import Bars, percent
from ..machine import files
from ..machine.interrupts import Interrupts
from ..recipe.recipe import Recipe
from ..recipe.regime import in_recovery
from ..runs.checkpoints import Checkpoints
from ..runs.run import Run
from ..settings.config import dump
from ..settings.errors import NonFinite, Stop, UserError
from ..types import Memory
from . import snapshot
from .guards import FiniteGuard
from .ledger import Ledger, accuracies_text
from .overfitting import overfitting, overfitting_text
from .passes import saved
from .snapshot import Progress, hash_of
from .step import local_module
from .tracking import open_trackers
from .validation import Validator

_SYNC_EVERY = 16
"""Steps between agreements of several processes on whether to stop."""
_SHOW_SECONDS = 1.0
"""Between two looks at the loss for the progress bar; one look is one host synchronisation."""


@dataclass(kw_only=True)
class Session:
    """One run in one process. Made by ``assemble``; ``train`` drives it."""

    fabric: Any
    recipe: Recipe
    run: Run
    model: nn.Module
    """As wrapped by Fabric."""
    optimizer: Any
    averager: Averager | None
    loader: Loader
    validator: Validator
    memory: Memory
    num_classes: int
    deadline: float | None
    """Of ``time.monotonic``; None: as long as it takes."""
    quiet: bool

    def __post_init__(self) -> None:
        self.total_steps = self.recipe.epochs * self.loader.steps_per_epoch
        self.progress = Progress()
        self.bars = Bars(quiet=self.quiet or self.fabric.global_rank > 0)
        self.checkpoints = Checkpoints(self.run.checkpoints)
        self.recipe_hash = hash_of(self.recipe)
        writes = self.fabric.is_global_zero
        self.ledger = Ledger(self.run, self.recipe, self.bars, num_classes=self.num_classes, writes=writes)
        self._guard = FiniteGuard()
        self._interrupts = Interrupts(self.deadline)
        self._clock = self._show_next = time.monotonic()

    def __enter__(self) -> Self:
        if self.fabric.is_global_zero:
            self.ledger.trackers = open_trackers(self.recipe.trackers, self.run.path, dump(self.recipe))
        self._interrupts.__enter__()
        self.bars.__enter__()
        parameters = sum(p.numel() for p in self.local.parameters())
        images, steps = len(self.loader.image_set), self.loader.steps_per_epoch
        self.bars.say(
            f"{self.recipe.model.name}: {parameters:,} parameters; {self.recipe.epochs} x {steps} steps, "
            f"{images:,} training images, {self.fabric.world_size} x {self.fabric.device.type}; {self.run.path}"
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.__exit__(kind, error, trace)
        if isinstance(error, UserError | NonFinite) and not self.fabric.is_global_zero:
            print(f"inure: process {self.fabric.global_rank}: {error}", file=sys.stderr)
        self._interrupts.__exit__(kind, error, trace)
        for tracker in self.ledger.trackers:
            tracker.close()

    def next_method(self, progress: float) -> Any:
        """What trains in the step at ``progress``, which is counted."""
        state, regime = self.progress, self.recipe.regime
        if state.recovery:
            state.recovery_steps += 1
        elif state.enter(regime.phase(progress, state.phase)) and regime.phases:
            self.begin_phase()
        return self.current_method

    def begin_phase(self) -> None:
        """Say what trains from the next step on."""
        state, phases, method = self.progress, len(self.recipe.regime.phases) + 1, self.current_method
        attack = getattr(method, "attack", None)
        trains = method.kind if attack is None else f"{method.kind} with {attack.kind}"
        self.ledger.begin_phase(state.epoch, state.step + 1, state.phase, phases, trains)

    @property
    def current_method(self) -> Any:
        """The recipe's method, or what a phase of its regime or a recovery makes of it."""
        recipe, state = self.recipe, self.progress
        if state.recovery:
            return in_recovery(recipe.method, recipe.guards.recovery_steps)
        return recipe.regime.method(recipe.method, state.phase)

    def set_lr(self, progress: float) -> None:
        """The learning rate at ``progress``."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.optimizer.lr * self.recipe.schedule.at(progress) * self.progress.lr_factor

    def after_step(self, logged: dict[str, Tensor], images: int) -> None:
        """Count, tally on the device, look now and then, and leave if asked to."""
        state = self.progress
        state.step += 1
        state.step_in_epoch += 1
        self._guard.observe(state.step, logged)
        self.ledger.tally(logged, images * self.fabric.world_size)
        if state.step % self.recipe.guards.check_every == 0:
            self._guard.check()
        if time.monotonic() > self._show_next:
            self._show()
        if self._leaving():
            self._guard.check()
            self.save()
            self._leave()

    def count_epoch(self) -> None:
        """The epoch's last step was made, and no loss was other than finite."""
        self._guard.check()
        self.progress.epoch += 1
        self.progress.step_in_epoch = 0

    @property
    def done(self) -> bool:
        """Whether no epoch is left to train."""
        return self.progress.collapsed or self.progress.epoch >= self.recipe.epochs

    def finish(self) -> None:
        """Hand on the chosen weights."""
        if self.fabric.is_global_zero:
            select = "best" if self.progress.collapsed else self.recipe.checkpoint.select
            chosen = self.run.checkpoints / f"{select}.safetensors"
            files.write_bytes(self.run.weights, chosen.read_bytes())
            cost = saved(self.recipe, self.progress.phase_steps) if self.recipe.regime.phases else None
            attacked = min(self.recipe.evaluation.validation_examples, len(self.validator.images))
            found = overfitting(self.ledger.history, attacked) if hasattr(self.recipe.method, "attack") else None
            self.run.write_info(
                status="finished", selected=select, phases=cost, overfitting=found,
                recovery_steps=self.progress.recovery_steps, collapsed=self.progress.collapsed,
            )  # fmt: skip
            if cost is not None:
                self.bars.say(
                    f"phases: {cost['pairs']:,.0f} passes of a batch in place of {cost['without']:,.0f}, "
                    f"{percent(cost['saved'])} saved"
                )
            if found is not None:
                self.bars.say(overfitting_text(found))
        self.fabric.barrier()

    def save(self, *, sound: bool = False) -> None:
        """One checkpoint from which ``restore`` continues exactly; ``sound``: one that ``go_back`` may return to."""
        state, now = self.progress, time.monotonic()
        state.seconds, self._clock = state.seconds + now - self._clock, now
        self.average_tally()
        state.sums = self.ledger.sums()
        content = snapshot.take(self.fabric, self.recipe_hash, state, *self._state)
        if self.fabric.is_global_zero:
            self.checkpoints.save(state.step, content, sound=sound)
            self._write_progress()
        self.fabric.barrier()

    def go_back(self, *, sound: bool = False, recovery: int | None = None) -> bool:
        """Return to the newest (``sound``) checkpoint with a lower learning rate; False if there is none.

        It goes on with so many epochs of ``recovery``; None: with those that were left at the checkpoint.

        The best weights so far stay what they are, and what is undone was paid for. The return is saved before the
        records of what it undoes are forgotten, so that a kill in between leaves a run that returns once more.
        """
        before, spent = self.progress, time.monotonic() - self._clock
        if not self._put_back(sound=sound):
            return False
        factor = before.lr_factor * self.recipe.guards.rollback_factor
        recovery = self.progress.recovery if recovery is None else recovery
        self.progress = replace(
            self.progress, best=before.best, rollbacks=before.rollbacks + 1, lr_factor=factor, recovery=recovery,
            phase_steps=before.phase_steps, recovery_steps=before.recovery_steps, seconds=before.seconds + spent,
        )  # fmt: skip
        self.save(sound=sound)
        self.ledger.forget_after(self.progress.step, self.progress.epoch)
        return True

    @property
    def _state(self) -> tuple[nn.Module, Any, Averager | None, Memory]:
        """What of a checkpoint changes with every step."""
        return self.local, self.optimizer, self.averager, self.memory

    @property
    def local(self) -> nn.Module:
        """The net in this process, as it is trained."""
        return local_module(self.model)

    def restore(self) -> None:
        """Continue from the newest checkpoint, if there is one."""
        if self._put_back() and self.fabric.is_global_zero:
            self._write_progress()  # a kill may have come between the checkpoint and run.json
        self.ledger.forget_after(self.progress.step, self.progress.epoch)

    def _put_back(self, *, sound: bool = False) -> bool:
        """Be where the newest (``sound``) checkpoint is, or where nothing was done yet; whether there is one."""
        content, refused = self.checkpoints.load(self.recipe_hash, sound=sound)
        for line in refused:
            self.bars.say(f"warning: {line}")
        if content is not None:
            self.progress = snapshot.put_back(self.fabric, content, *self._state)
        elif sound:
            return False
        self._guard.reset()
        state = self.progress
        self.ledger.restore(state.sums, state.step, state.epoch, self.fabric.device)
        self._clock = time.monotonic()
        return content is not None

    def average_tally(self) -> None:
        """Make the tally that of all processes."""
        if self.fabric.world_size > 1:
            self.ledger.average(partial(self.fabric.all_reduce, reduce_op="mean"))

    def _write_progress(self) -> None:
        state = self.progress
        self.run.write_info(
            epochs_done=state.epoch, step=state.step, seconds=state.seconds, best=state.best, last=state.last
        )

    def _show(self) -> None:
        self._show_next = time.monotonic() + _SHOW_SECONDS
        state, size = self.progress, self.recipe.batch_size
        note = f"loss {self.ledger.mean_loss():.3f}  {accuracies_text(state.last)}"
        here, whole = state.step_in_epoch, self.loader.steps_per_epoch
        self.bars.show("epoch", here * size, whole * size, note=f"epoch {state.epoch + 1}", unit="images")
        self.bars.show("run", state.step, self.total_steps, note=note, unit="steps")

    def warn(self, kind: str, detail: str) -> None:
        """Say it and log it at the step of the moment."""
        self.ledger.warn(self.progress.epoch, self.progress.step, kind, detail)

    def _leaving(self) -> bool:
        wanted = self._interrupts.wanted
        if self.fabric.world_size == 1:
            return wanted
        if self.progress.step % _SYNC_EVERY:
            return False
        return bool(self.fabric.all_reduce(torch.tensor(float(wanted)), reduce_op="sum") > 0)

    def _leave(self) -> None:
        if self.fabric.is_global_zero:
            self.run.log({"event": "stop", "reason": self._interrupts.reason, "step": self.progress.step})
            self.run.write_info(status="stopped")
        raise Stop(self.run.path, self._interrupts.signal)
