"""The combinations of settings that cannot work, each refused by the name of the setting to change."""

from typing import Any

from pydantic import ValidationError

from ..balance import Balance
from ..penalties import predicts
from ..settings.errors import UserError
from ..settings.mistakes import first_mistake
from ..threat import Geometry, Linf, describe_threat
from .slots import Slots

_PHASE = "regime.phases["


def refuse_impossible(recipe: Slots) -> None:
    """All combinations that cannot work, in one place.

    Raises:
        UserError: Naming the setting to change.
    """
    attack = getattr(recipe.method, "attack", None)
    for name, given, value, off in (
        ("regime.epsilon", "a schedule", recipe.regime.epsilon, "null"),
        ("regime.steps", "a schedule", recipe.regime.steps, "null"),
        ("regime.phases", "phases", recipe.regime.phases, "[]"),
        ("crafting", _kinds(recipe.crafting), recipe.crafting, "null"),
    ):
        if attack is None and value:
            allowed = f"{off}: method {recipe.method.kind} does not attack"
            raise UserError(name, given, allowed, f"{name}={off} or method.kind=pgd_at")
    _refuse_attacks(recipe)
    for name in getattr(recipe.method, "ignores", ()):
        if getattr(recipe.balance, name) != getattr(Balance(), name):
            _refuse_ignored(recipe, name)
    for name in getattr(recipe.method, "refuses", ()):
        if getattr(recipe, name):
            off = "[]" if name == "penalties" else "null"
            allowed = f"{off}: the step of method {recipe.method.kind} has no place for it"
            raise UserError(name, _kinds(getattr(recipe, name)), allowed, f"{name}={off}")
    _refuse_recovery(recipe)
    _refuse_penalties(recipe)
    _refuse_balance(recipe)
    _refuse_unmeasured(recipe)
    _refuse_other_domains(recipe)
    metric = recipe.checkpoint.metric
    if attack is None and metric.endswith("robust") and recipe.evaluation.threat.epsilon == 0:
        raise UserError("checkpoint.metric", metric, "clean: evaluation.threat.epsilon is 0", "checkpoint.metric=clean")


def _kinds(piece: Any) -> str:
    """What a list of pieces, the tricks while crafting, or a piece consist of."""
    if isinstance(piece, list):
        return " + ".join(one.kind for one in piece)
    named = getattr(piece, "kind", None) or " + ".join(name for name, value in piece or () if value is not None)
    return named or "an empty mapping"


def _refuse_ignored(recipe: Slots, name: str) -> None:
    """A criterion that is not the default where the method has one of its own."""
    given, default = getattr(recipe.balance, name), getattr(Balance(), name)
    shown, remedy = given.kind, f"balance.{name}.kind={default.kind}"
    if given.kind == default.kind:
        changed = {key: value for key, value in given if value != getattr(default, key)}
        shown = f"{given.kind} with {', '.join(f'{key}={value}' for key, value in changed.items())}"
        remedy = " ".join(f"balance.{name}.{key}={getattr(default, key)}" for key in changed)
    allowed = f"the default, {default.kind}: method {recipe.method.kind} ignores it"
    raise UserError(f"balance.{name}", shown, allowed, remedy)


def refuse_unfit(recipe: Slots, shape: tuple[int, ...]) -> None:
    """Attacks that images of this shape, (C, H, W), do not fit, or that need a file that is not there.

    Raises:
        UserError: Naming the setting to change.
    """
    for place, attack in attacks_of(recipe).items():
        if hasattr(attack, "check"):
            try:
                attack.check(shape)
            except UserError as mistake:
                raise mistake.at(f"{place}.{mistake.setting}") from None


def _refuse_attacks(recipe: Slots) -> None:
    """Attacks that cannot take a trick, a schedule, the method's threat, or what the method climbs."""
    method: Any = recipe.method
    for place, attack in attacks_of(recipe).items():
        of_phase = place.startswith(_PHASE)
        if recipe.regime.steps and not hasattr(attack, "steps") and not of_phase:
            allowed = f"null: attack {attack.kind} has one step"
            raise UserError("regime.steps", "a schedule", allowed, _instead(place, "kind", "pgd"))
        if of_phase:
            _refuse_threat(place, attack, method.attack.threat)
        for trick, reason in getattr(attack, "refuses", {}).items():
            if getattr(recipe.crafting, trick, None) is not None:
                allowed = f"null: attack {attack.kind} {reason}"
                raise UserError(f"crafting.{trick}", "on", allowed, _instead(place, "kind", "pgd"))
        if getattr(method, "needs_start", False):
            _refuse_start(place, attack, method.kind)


def attacks_of(recipe: Slots) -> dict[str, Any]:
    """All attacks of a recipe by their place: the method's, those of other adversaries, those of phases."""
    others = {f"method.adversaries.{name}": a for name, a in getattr(recipe.method, "adversaries", {}).items()}
    phases = {f"{_PHASE}{number}].attack": phase.attack for number, phase in enumerate(recipe.regime.phases)}
    found = {"method.attack": getattr(recipe.method, "attack", None), **others, **phases}
    return {place: attack for place, attack in found.items() if attack is not None}


def _instead(place: str, name: str, value: str) -> str:
    """A remedy: the command line reaches into mappings, not into lists."""
    return f"{name}: {value} in that phase" if place.startswith(_PHASE) else f"{place}.{name}={value}"


def _item(name: str, item: Any, key: str, value: str) -> str:
    """A remedy for an item of a list, as it can be written."""
    return f"{name}=[{{kind: {item.kind}, {key}: {value}}}]"


def _refuse_threat(name: str, attack: Any, threat: Any) -> None:
    """An attack of a phase that cannot act in the threat model of the method, or asks for one of its own."""
    if attack.threat not in (type(attack)().threat, threat):
        allowed = "nothing: in all phases the threat is that of the method"
        raise UserError(
            f"{name}.threat", describe_threat(attack.threat), allowed, "regime.epsilon for a radius that grows"
        )
    tree = {**attack.model_dump(), "threat": threat.model_dump()}
    try:
        type(attack).model_validate(tree)
    except ValidationError as error:
        mistake = first_mistake(type(attack), tree, error)
        remedy = _instead(name, "kind", "pgd or fgsm") if mistake.setting == "threat.kind" else mistake.remedy
        raise UserError(f"{name}.{mistake.setting}", mistake.given, mistake.allowed, remedy) from None


def _refuse_start(place: str, attack: Any, method: str) -> None:
    """A first gradient at the image itself where what is climbed has none: its signs would be those of rounding."""
    start = getattr(attack, "start", None)
    for name, at_image, better in (
        ("start", start == "zero", "uniform"),
        ("start_std", start == "gaussian" and attack.start_std == 0, "0.001"),
        ("noise", getattr(attack, "noise", None) == 0, "1"),
    ):
        if at_image:
            gradient = "no gradient at the image itself (between domains: none at first)"
            allowed = f"another: method {method} climbs a divergence, which has {gradient}"
            raise UserError(f"{place}.{name}", getattr(attack, name), allowed, _instead(place, name, better))


def _refuse_recovery(recipe: Slots) -> None:
    """Guards against the collapse of an attack where there is none, or none that could be exchanged."""
    guards, method = recipe.guards, recipe.method
    if guards.catastrophic != "warn" and not hasattr(method, "attack"):
        allowed = f"warn: method {method.kind} does not attack"
        remedy = "guards.catastrophic=warn or method.kind=pgd_at"
        raise UserError("guards.catastrophic", guards.catastrophic, allowed, remedy)
    if guards.catastrophic == "switch" and not guards.recovery_epochs:
        allowed = "at least 1 with guards.catastrophic=switch"
        raise UserError("guards.recovery_epochs", 0, allowed, "guards.recovery_epochs=2")
    recovers = guards.catastrophic in ("rollback", "switch") and guards.recovery_epochs
    if recovers and hasattr(method, "step") and not hasattr(method, "with_attack"):
        allowed = f"warn | stop: the step of method {method.kind} is its own attack"
        raise UserError("guards.catastrophic", guards.catastrophic, allowed, "guards.catastrophic=stop")


def _refuse_penalties(recipe: Slots) -> None:
    """The same one twice, or one that the method or a compiled net cannot have."""
    kinds = [penalty.kind for penalty in recipe.penalties]
    for number, penalty in enumerate(recipe.penalties):
        name = f"penalties[{number}]"
        if penalty.kind in kinds[:number]:
            raise UserError(name, penalty.kind, "penalties that differ", "leaving one out")
        if getattr(penalty, "eager", False) and recipe.engine.compile:
            allowed = "false: compiled nets cannot be differentiated twice"
            raise UserError("engine.compile", f"true with penalty {penalty.kind}", allowed, "engine.compile=false")
        on, known = getattr(penalty, "on", "auto"), predicts(recipe.method)
        if on not in ("auto", *known):
            allowed = f"auto | {' | '.join(known)}: method {recipe.method.kind} predicts no others"
            raise UserError(f"{name}.on", on, allowed, _item("penalties", penalty, "on", "auto"))
        if getattr(penalty, "needs_attack", False) and not hasattr(recipe.method, "attack"):
            allowed = f"others: method {recipe.method.kind} does not attack"
            raise UserError(name, penalty.kind, allowed, "method.kind=pgd_at")


def _refuse_balance(recipe: Slots) -> None:
    """Radii by class without an attack, and what a step of the method's own has no place for."""
    method, balance = recipe.method, recipe.balance
    refused, reason = getattr(method, "refuses_of_balance", ()), f"the step of method {method.kind} has no place for it"
    if balance.epsilon is not None and ("epsilon" in refused or not hasattr(method, "attack")):
        reason = reason if refused else f"method {method.kind} does not attack"
        raise UserError("balance.epsilon", "radii by class", f"null: {reason}", "method.kind=pgd_at")
    if balance.counter is not None and "counter" in refused:
        name, off = ("balance.counts", "false") if balance.counts else ("balance.train.kind", "another criterion")
        raise UserError(name, balance.counts or balance.train.kind, f"{off}: {reason}", "method.kind=pgd_at")


def _refuse_unmeasured(recipe: Slots) -> None:
    """The same measure twice, one of what is not there, or a phase that waits for what nobody measures."""
    kinds = [measure.kind for measure in recipe.measures]
    batchnorm = recipe.model.batchnorm
    for number, measure in enumerate(recipe.measures):
        if measure.kind in kinds[:number]:
            raise UserError(f"measures[{number}]", measure.kind, "measures that differ", "leaving one out")
        if getattr(measure, "bn_mode", "batch") == "running" and batchnorm is not None and not batchnorm.running:
            allowed = "batch with model.batchnorm.running=false: there are no running statistics"
            raise UserError(
                f"measures[{number}].bn_mode", "running", allowed, _item("measures", measure, "bn_mode", "batch")
            )
        others = [threat for threat in _threats(recipe) if not isinstance(threat, Linf)]
        if others and getattr(measure, "epsilon", 0) is None:
            allowed = f"a number in pixel units, half the side of a box: a radius under {others[0].kind} is none"
            remedy = _item("measures", measure, "epsilon", "8/255")
            raise UserError(f"measures[{number}].epsilon", None, allowed, remedy)
    known = [name for measure in recipe.measures for name in measure.names]
    for number, phase in enumerate(recipe.regime.phases):
        if phase.below is not None and phase.below.measure not in known:
            allowed = "what the recipe's measures record: " + (" | ".join(known) or "there are none")
            setting = f"regime.phases[{number}].below.measure"
            raise UserError(setting, phase.below.measure, allowed, "measures=[{kind: kernel}]")


def _threats(recipe: Slots) -> list[Geometry]:
    """Those that measures may meet: the attack's, and the evaluation's where nothing is attacked."""
    attack, clean = getattr(recipe.method, "attack", None), any(p.attack is None for p in recipe.regime.phases)
    return [*([] if attack is None else [attack.threat]), *([recipe.evaluation.threat] if clean or not attack else [])]


def _refuse_other_domains(recipe: Slots) -> None:
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
