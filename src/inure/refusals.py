"""The combinations of settings that cannot work, each refused by the name of the setting to change."""

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from . import config
from .balance import Balance
from .errors import UserError
from .penalties import predicts
from .threat import Geometry, Linf

if TYPE_CHECKING:
    from .recipe import Recipe

_AT_THE_IMAGE = (("start", "zero", "uniform"), ("start_std", 0, "0.001"), ("noise", 0, "1"))
"""Settings of an attack that put its first gradient at the image itself, and what to try instead."""


def refuse_impossible(recipe: "Recipe") -> None:
    """All combinations that cannot work, in one place.

    Raises:
        UserError: Naming the setting to change.
    """
    attack = getattr(recipe.method, "attack", None)
    for name, given, value, off in (
        ("regime.epsilon", "a schedule", recipe.regime.epsilon, "null"),
        ("regime.steps", "a schedule", recipe.regime.steps, "null"),
        ("regime.phases", "phases", recipe.regime.phases, "[]"),
        ("crafting", "tricks", recipe.crafting, "null"),
    ):
        if attack is None and value:
            allowed = f"{off}: method {recipe.method.kind} does not attack"
            raise UserError(name, given, allowed, f"{name}={off} or method.kind=pgd_at")
    _refuse_attacks(recipe)
    for name in getattr(recipe.method, "ignores", ()):
        if getattr(recipe.balance, name) != getattr(Balance(), name):
            raise UserError(f"balance.{name}", "a criterion", f"the default: method {recipe.method.kind} ignores it")
    for name in getattr(recipe.method, "refuses", ()):
        if getattr(recipe, name):
            off = "[]" if name == "penalties" else "null"
            allowed = f"{off}: the step of method {recipe.method.kind} has no place for it"
            given = getattr(getattr(recipe, name), "kind", "tricks" if name == "crafting" else "terms")
            raise UserError(name, given, allowed, f"{name}={off}")
    _refuse_starts(recipe)
    _refuse_recovery(recipe)
    _refuse_penalties(recipe)
    _refuse_balance(recipe)
    _refuse_unmeasured(recipe)
    _refuse_other_domains(recipe)
    metric = recipe.checkpoint.metric
    if attack is None and metric.endswith("robust") and recipe.evaluation.threat.epsilon == 0:
        raise UserError("checkpoint.metric", metric, "clean: evaluation.threat.epsilon is 0")


def _refuse_attacks(recipe: "Recipe") -> None:
    """Attacks, those of phases included, that cannot take a trick, a schedule or the method's threat."""
    method, regime, tricks = recipe.method, recipe.regime, recipe.crafting
    attack: Any = getattr(method, "attack", None)
    searches = [s for s in (attack, *getattr(method, "adversaries", {}).values()) if s is not None]
    for search in searches if regime.steps else ():
        if not hasattr(search, "steps"):
            allowed = f"null: attack {search.kind} has one step"
            raise UserError("regime.steps", "a schedule", allowed, "method.attack.kind=pgd")
    first = {f"regime.phases[{n}].attack": phase.attack for n, phase in enumerate(regime.phases) if phase.attack}
    for name, search in first.items():
        _refuse_threat(name, search, attack.threat)
    for name, search in (*(("method.attack", search) for search in searches), *first.items()):
        for trick, reason in getattr(search, "refuses", {}).items():
            if getattr(tricks, trick, None) is not None:
                allowed = f"null: attack {search.kind} {reason}"
                raise UserError(f"crafting.{trick}", "on", allowed, f"{name}.kind=pgd")


def _refuse_threat(name: str, attack: Any, threat: Any) -> None:
    """An attack of a phase that cannot act in the threat model of the method."""
    tree = {**attack.model_dump(), "threat": threat.model_dump()}
    try:
        type(attack).model_validate(tree)
    except ValidationError as error:
        mistake = config.first_mistake(type(attack), tree, error)
        raise mistake.at(f"{name}.{mistake.setting}") from None


def _refuse_starts(recipe: "Recipe") -> None:
    """A first gradient at the image itself where what is climbed has none: its signs would be those of rounding."""
    method: Any = recipe.method
    if not getattr(method, "needs_start", False):
        return
    phases = {f"regime.phases[{n}].attack": phase.attack for n, phase in enumerate(recipe.regime.phases)}
    others = {f"method.adversaries.{name}": attack for name, attack in getattr(method, "adversaries", {}).items()}
    for place, attack in {"method.attack": method.attack, **others, **phases}.items():
        for name, value, better in _AT_THE_IMAGE:
            # How wide Gaussian noise is matters to a Gaussian start alone
            matters = name != "start_std" or getattr(attack, "start", None) == "gaussian"
            if matters and getattr(attack, name, None) == value:
                allowed = f"another: method {method.kind} climbs a divergence that has no gradient at the image itself"
                raise UserError(f"{place}.{name}", value, allowed, f"attack.{name}={better}")


def _refuse_recovery(recipe: "Recipe") -> None:
    """Guards against the collapse of an attack where there is none, or none that could be exchanged."""
    guards, method = recipe.guards, recipe.method
    if guards.catastrophic != "warn" and not hasattr(method, "attack"):
        raise UserError("guards.catastrophic", guards.catastrophic, f"warn: method {method.kind} does not attack")
    if guards.catastrophic == "switch" and not guards.recovery_epochs:
        raise UserError("guards.recovery_epochs", 0, "at least 1 with guards.catastrophic=switch")
    recovers = guards.catastrophic in ("rollback", "switch") and guards.recovery_epochs
    if recovers and hasattr(method, "step") and not hasattr(method, "with_attack"):
        allowed = f"warn | stop: the step of method {method.kind} is its own attack"
        raise UserError("guards.catastrophic", guards.catastrophic, allowed)


def _refuse_penalties(recipe: "Recipe") -> None:
    """The same one twice, or one that the method or a compiled net cannot have."""
    kinds = [penalty.kind for penalty in recipe.penalties]
    for number, penalty in enumerate(recipe.penalties):
        name = f"penalties[{number}]"
        if penalty.kind in kinds[:number]:
            raise UserError(name, penalty.kind, "penalties that differ")
        if getattr(penalty, "eager", False) and recipe.engine.compile:
            allowed = "false: compiled nets cannot be differentiated twice"
            raise UserError("engine.compile", f"true with penalty {penalty.kind}", allowed, "engine.compile=false")
        on, known = getattr(penalty, "on", "auto"), predicts(recipe.method)
        if on not in ("auto", *known):
            allowed = f"auto | {' | '.join(known)}: method {recipe.method.kind} predicts no others"
            raise UserError(f"{name}.on", on, allowed)
        if getattr(penalty, "needs_attack", False) and not hasattr(recipe.method, "attack"):
            allowed = f"others: method {recipe.method.kind} does not attack"
            raise UserError(name, penalty.kind, allowed, "method.kind=pgd_at")


def _refuse_balance(recipe: "Recipe") -> None:
    """Radii by class without an attack, and what a step of the method's own has no place for."""
    method, balance = recipe.method, recipe.balance
    refused, reason = getattr(method, "refuses_of_balance", ()), f"the step of method {method.kind} has no place for it"
    if balance.epsilon is not None and ("epsilon" in refused or not hasattr(method, "attack")):
        reason = reason if refused else f"method {method.kind} does not attack"
        raise UserError("balance.epsilon", "radii by class", f"null: {reason}", "method.kind=pgd_at")
    if balance.counter is not None and "counter" in refused:
        name, off = ("balance.counts", "false") if balance.counts else ("balance.train.kind", "another criterion")
        raise UserError(name, balance.counts or balance.train.kind, f"{off}: {reason}", "method.kind=pgd_at")


def _refuse_unmeasured(recipe: "Recipe") -> None:
    """The same measure twice, one of what is not there, or a phase that waits for what nobody measures."""
    kinds = [measure.kind for measure in recipe.measures]
    batchnorm = recipe.model.batchnorm
    for number, measure in enumerate(recipe.measures):
        if measure.kind in kinds[:number]:
            raise UserError(f"measures[{number}]", measure.kind, "measures that differ")
        if getattr(measure, "bn_mode", "batch") == "running" and batchnorm is not None and not batchnorm.running:
            allowed = "batch with model.batchnorm.running=false: there are no running statistics"
            raise UserError(f"measures[{number}].bn_mode", "running", allowed, "bn_mode=batch")
        others = [threat for threat in _threats(recipe) if not isinstance(threat, Linf)]
        if others and getattr(measure, "epsilon", 0) is None:
            allowed = f"a number in pixel units, half the side of a box: a radius under {others[0].kind} is none"
            raise UserError(f"measures[{number}].epsilon", None, allowed, "epsilon=8/255")
    known = [name for measure in recipe.measures for name in measure.names]
    for number, phase in enumerate(recipe.regime.phases):
        if phase.below is not None and phase.below.measure not in known:
            allowed = "what the recipe's measures record: " + (" | ".join(known) or "there are none")
            setting = f"regime.phases[{number}].below.measure"
            raise UserError(setting, phase.below.measure, allowed, "measures=[{kind: kernel}]")


def _threats(recipe: "Recipe") -> list[Geometry]:
    """Those that measures may meet: the attack's, and the evaluation's where nothing is attacked."""
    attack, clean = getattr(recipe.method, "attack", None), any(p.attack is None for p in recipe.regime.phases)
    return [*([] if attack is None else [attack.threat]), *([recipe.evaluation.threat] if clean or not attack else [])]


def _refuse_other_domains(recipe: "Recipe") -> None:
    """Parameters of domains that nothing trains, or a method whose domains the net lacks."""
    adapters, trained = recipe.model.adapters, getattr(recipe.method, "domains", ())
    if adapters is None:
        return
    if not trained:
        allowed = f"null: method {recipe.method.kind} trains a single domain"
        raise UserError("model.adapters", " + ".join(adapters.kinds), allowed, "method.kind=co_training")
    if {*trained} != {*adapters.domains}:
        allowed = f"those of the method: {' | '.join(trained)}"
        raise UserError("model.adapters.domains", adapters.domains, allowed, "method.adversaries for more than two")
