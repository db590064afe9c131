"""What an epoch ends with: measures, the weights to look at and their accuracies, the record, and what follows."""

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .. import memory
from ..averaging import SWA
from ..machine.eager import eagerly
from ..measures import Probe
from ..recipe.catastrophic import CLEAN
from ..recipe.recipe import Recipe
from ..recipe.regime import END
from ..runs.checkpoints import write_weights
from . import statistics
from .recovery import meet_collapse
from .validation import accuracies, domain_distance

if TYPE_CHECKING:
    from .session import Session

_GROWN = 0.5
"""Share of the final epsilon from which on single-step training can collapse as at the whole of it. Ours."""


def end_epoch(session: "Session") -> None:
    """Measure; every ``checkpoint.every`` epochs and at the end validate, record, keep the best, save."""
    state, recipe = session.progress, session.recipe
    statistics.average_over_processes(session.fabric, session.local)
    noted, found = memory.end_epoch(recipe, session.memory), measured(session)
    noted |= {"measures": found} if found else {}
    due = state.epoch % recipe.checkpoint.every == 0 or state.epoch == recipe.epochs
    if due:
        _validate(session, noted | exempt(session))
    elif noted:
        session.ledger.note(state.epoch, state.step, noted)
    if state.end_epoch(recipe.regime, found):
        session.begin_phase()
    if due and not meet_collapse(session):
        guards = recipe.guards
        session.save(sound=guards.catastrophic == "rollback" and guards.collapse.sound(session.ledger.history))


def _validate(session: "Session", noted: dict[str, Any]) -> None:
    """The record of the epochs since the last one, with what else is ``noted``; the weights, and the best."""
    state, module, metric = session.progress, evaluated_module(session), metric_of(session.recipe)
    validation = validated(session, module)
    state.last = {"epoch": state.epoch, **validation}
    better = state.best is None or validation[metric] > state.best[metric]
    if better:
        state.best = dict(state.last)
    if session.fabric.is_global_zero:
        write_weights(session.run.checkpoints / "last.safetensors", module)
        if better:
            write_weights(session.run.checkpoints / "best.safetensors", module)
    lr, progress = session.optimizer.param_groups[0]["lr"], state.step / session.total_steps
    attack = getattr(session.current_method, "attack", None)
    epsilon = None if attack is None else session.recipe.regime.scale(attack, progress).threat.epsilon
    session.average_tally()
    session.ledger.close_epoch(state.epoch, state.step, progress, lr, epsilon, validation, noted)


def evaluated_module(session: "Session") -> nn.Module:
    """The net that is validated and written: averaged, with statistics estimated anew, where the recipe says so."""
    module = session.local if session.averager is None else session.averager.module
    anew = session.recipe.model.batchnorm
    if anew is not None and anew.reestimate is not None:
        module = copy.deepcopy(module)
        _estimate(session, module, source=anew.reestimate, batches=anew.batches)
    elif session.averager and isinstance(session.recipe.averaging, SWA) and session.averager.updates:
        _estimate(session, module)
    if module is not session.local:
        statistics.average_over_processes(session.fabric, module)
    return module


def _estimate(session: "Session", module: nn.Module, **how: Any) -> None:
    if statistics.has_statistics(module):
        where = session.progress.epoch, session.num_classes, session.progress.step
        now = {"method": session.current_method, "progress": _last_progress(session)}
        statistics.estimate(module, session.recipe, session.loader, *where, session.memory, **now, **how)


def validated(session: "Session", module: nn.Module) -> dict[str, float]:
    """Accuracies of ``module`` on the validation split, the same in every process."""
    # Compiled graphs are for the shapes of training; here they would only be compiled anew
    with eagerly():
        counts = session.validator.counts(module)
    if session.fabric.world_size > 1:
        counts = {name: session.fabric.all_reduce(value, reduce_op="sum") for name, value in counts.items()}
    return accuracies(counts) | {name: float(value) for name, value in domain_distance(module).items()}


def measured(session: "Session") -> dict[str, float]:
    """What the measures that are due say of the net, the same in every process."""
    state, recipe, fabric = session.progress, session.recipe, session.fabric
    due = [m for m in recipe.measures if state.epoch % m.every == 0 or state.epoch == recipe.epochs]
    if not due:
        return {}
    now, images = (session.current_method, _last_progress(session)), session.validator.images
    probe = Probe(session.local, images, recipe, *now, fabric.device, session.memory)
    with eagerly():
        found = {name: value for measure in due for name, value in measure(probe).items()}
    if fabric.world_size > 1:
        found = {name: float(fabric.all_reduce(torch.tensor(v), reduce_op="mean")) for name, v in found.items()}
    return found


def exempt(session: "Session") -> dict[str, str]:
    """Why nobody takes the epoch for catastrophic overfitting, whatever its accuracies are; empty if it is judged."""
    recipe, factor = session.recipe, session.recipe.regime.epsilon
    if session.progress.recovery:
        return {"exempt": "recovery"}
    if hasattr(recipe.method, "attack") and not hasattr(session.current_method, "attack"):
        return {"exempt": CLEAN}
    if factor is not None and factor.at(_last_progress(session)) < _GROWN * factor.at(END):
        return {"exempt": "small epsilon"}
    return {}


def _last_progress(session: "Session") -> float:
    """Progress at the last step: that of the phase, the radius and the priors of the net that is looked at."""
    return (session.progress.step - 1) / session.total_steps


def metric_of(recipe: Recipe) -> str:
    """The validation accuracy by which the best epoch is chosen."""
    metric = recipe.checkpoint.metric
    if metric == "auto":
        metric = "robust" if hasattr(recipe.method, "attack") else "clean"
        metric = metric if recipe.data.long_tail is None else f"balanced_{metric}"
    return f"{metric}_accuracy"
