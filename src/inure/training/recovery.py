"""What is done when training goes wrong: ``guards.nonfinite`` and ``guards.catastrophic``."""

from typing import TYPE_CHECKING

from ..settings.errors import NonFinite

if TYPE_CHECKING:
    from .session import Session


def roll_back(session: "Session", error: NonFinite) -> None:
    """Return to the last checkpoint with a lower learning rate.

    Raises:
        NonFinite: If the guards say stop, or too often already, or nothing was saved yet.
    """
    guards, done = session.recipe.guards, session.progress.rollbacks
    last = session.checkpoints.newest()
    detail = f"{error}; last good checkpoint: {last}"
    if guards.nonfinite == "stop" or done >= guards.max_rollbacks or last == "none":
        session.warn("nonfinite", detail)
        if session.fabric.is_global_zero:
            session.run.write_info(status="stopped")
        error.checkpoint = last
        raise error
    session.go_back()
    # Logged at the step of the checkpoint, or the next resume would forget them with the steps that it repeats
    session.warn("nonfinite", detail)
    session.warn("rollback", f"back to step {session.progress.step}, lr times {session.progress.lr_factor:g}")


def meet_collapse(session: "Session") -> bool:
    """Act on the newest validation, the same in every process; whether it went back, and saved that.

    Else the checkpoint that follows holds what was decided.

    To come back is not enough: the same steps with the same seeds would collapse again. So a rollback goes on with a
    lower learning rate, after some epochs with PGD. Where there is nothing sound to go back to, or the rollbacks are
    used up, training ends.
    """
    guards, state, history = session.recipe.guards, session.progress, session.ledger.history
    if guards.catastrophic == "warn" or not guards.collapse.found(history):
        return False
    epochs, steps = guards.recovery_epochs, guards.recovery_steps
    seen = f"{guards.collapse.figures(history)} after epoch {state.epoch}"
    training = f"{epochs} {'epoch' if epochs == 1 else 'epochs'} of PGD-{steps}"
    if guards.catastrophic == "switch":
        if not session.done:
            state.recovery = epochs
            session.warn("switch", training)
        return False
    may = guards.catastrophic == "rollback" and state.rollbacks < guards.max_rollbacks
    if may and session.go_back(sound=True, recovery=epochs):
        state = session.progress
        # Logged at the step of the checkpoint: what comes after it was forgotten
        session.warn("rollback", f"{seen}: back to step {state.step}, lr times {state.lr_factor:g}, {training}")
        return True
    state.collapsed = True
    spent = f"after {state.rollbacks} rollbacks, " if state.rollbacks else ""
    best = "" if state.best is None else f", of epoch {state.best['epoch']},"
    session.warn("stop", f"{spent}the weights with the best accuracy so far{best} are handed on")
    return False
