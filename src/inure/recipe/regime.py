"""Regime: how the attack grows during training, and the phases of other training before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, model_validator

from ..attacks import PGD, Attack
from ..libraries import Tensor, torch
from ..losses import cross_entropy
from ..methods.standard import Standard
from ..schedules import Factor, Share
from ..settings.config import Real, Settings, Whole
from ..settings.errors import UserError
from ..types import Crafting, Criterion, Images, Labels, Logits, PerExample, Search, Term

END = 1 - 1e-9
"""Progress at which a regime has reached its full strength."""


class Below(Settings):
    """Until a measure is below a value at several looks in a row."""

    measure: str = "kernel_distance"
    """A number that one of the recipe's ``measures`` records."""
    value: Annotated[Real, Field(gt=0)] = 0.01
    times: Annotated[Whole, Field(ge=1)] = 2


class Phase(Settings):
    """A beginning of training in which something cheaper than the method's attack makes the images."""

    until: Share
    """Share of training at which it ends, at the latest."""
    attack: Attack | None = None
    """In place of the method's attack, with the method's threat model. None: clean images, which is standard
    training at its price."""
    below: Below | None = None
    """Ends the phase earlier."""


class Regime(Settings):
    """How the attack grows during training. Each factor is a function of progress."""

    epsilon: Factor | None = None
    """Multiplies epsilon and the step size (epsilon warm-up)."""
    steps: Factor | None = None
    """Multiplies the number of steps, rounded, at least 1."""
    phases: list[Phase] = []
    """What comes before the method itself: clean images, then FGSM, then the method (Li et al., arXiv:2312.02236)."""

    @model_validator(mode="after")
    def _ordered(self) -> Regime:
        ends = [phase.until for phase in self.phases]
        if ends != sorted(ends):
            raise UserError("phases", f"ends {ends}", "shares of training in rising order", f"ends {sorted(ends)}")
        for number, (before, phase) in enumerate(zip(self.phases, self.phases[1:], strict=False), start=1):
            if before.until == phase.until and before.below is None:
                given = f"{phase.until:g}, where regime.phases[{number - 1}] ends too"
                allowed = "a later share of training: nothing is left of this phase (unless the one before has `below`)"
                raise UserError(f"phases[{number}].until", given, allowed, "leaving one out")
        return self

    def phase(self, progress: float, least: int = 0) -> int:
        """The number of the phase at ``progress``, ``least`` or later; ``len(phases)`` is the method itself."""
        return max(least, sum(progress >= phase.until for phase in self.phases))

    def method(self, method: Any, phase: int) -> Any:
        """What trains in a phase: ``method``, its like with another attack, or standard training."""
        if phase >= len(self.phases):
            return method
        attack = self.phases[phase].attack
        if attack is None:
            return Standard()
        return with_attack(method, attack.model_copy(update={"threat": method.attack.threat}))

    def scale(self, attack: Any, progress: float, radii: Tensor | None = None) -> Any:
        """``attack`` as it is at ``progress``, its epsilon and step size times ``radii`` (B,), if there are any."""
        if self.epsilon is not None:
            attack = with_radius(attack, self.epsilon.at(progress))
        if radii is not None:
            attack = with_radius(attack, radii)
        if self.steps is not None and hasattr(attack, "steps"):
            attack = attack.model_copy(update={"steps": max(1, round(attack.steps * self.steps.at(progress)))})
        return attack

    def search(
        self,
        method: Any,
        progress: float,
        crafting: Crafting | None = None,
        terms: Sequence[Term] = (),
        radii: Tensor | None = None,
    ) -> Search | None:
        """What ``method.craft`` attacks with: its attack, or another given as ``search``; None if it has none.

        Args:
            method: Its ``attack``, and the weight that its objective gives to what the attack climbs.
            progress: Of training.
            crafting: The tricks that act on the iterates.
            terms: What is climbed besides.
            radii: (B,) factors of epsilon and the step size, one for each image.
        """
        if not hasattr(method, "attack"):
            return None
        weight = getattr(method, "attack_weight", 1.0)

        now = self.scale(method.attack, progress, radii)

        def attack(*arguments: Any, search: Any = None, loss: Criterion = cross_entropy, **options: Any) -> Images:
            scaled = now if search is None else self.scale(search, progress, radii)
            climbed = _Sum(loss, terms, weight) if terms else loss
            x_adv = scaled(*arguments, crafting=crafting, loss=climbed, **options)
            finish = getattr(crafting, "finish", None)
            return x_adv if finish is None else finish(x_adv, arguments[1])

        attack.__dict__.update(threat=now.threat, step_size=getattr(now, "step_size", None))  # as an attack has them
        return attack


def with_attack(method: Any, attack: Any) -> Any:
    """What trains like ``method`` but with another attack; a method that is tied to its own says what that is."""
    own = getattr(method, "with_attack", None)
    return method.model_copy(update={"attack": attack}) if own is None else own(attack)


def in_recovery(method: Any, steps: int) -> Any:
    """What trains for the epochs of a recovery: ``method`` with PGD of at least so many steps."""
    steps = max(steps, getattr(method.attack, "steps", 1))
    return with_attack(method, PGD(threat=method.attack.threat, steps=steps))


def with_radius(attack: Any, factor: float | Tensor) -> Any:
    """``attack`` with epsilon and an explicit step size times ``factor``, a number or (B,)."""
    change: dict[str, Any] = {"threat": attack.threat.with_epsilon(attack.threat.epsilon * factor)}
    if getattr(attack, "step_size", None) is not None:
        change["step_size"] = attack.step_size * factor
    return attack.model_copy(update=change)


@dataclass(frozen=True)
class _Sum:
    """``weight * loss`` plus the terms, over ``weight``: a sign does not see the difference, and nothing is rescaled
    where there is no term. With a weight of 0 the terms alone.
    """

    loss: Criterion
    terms: Sequence[Term]
    weight: float

    def __call__(self, logits: Logits, y: Labels) -> PerExample:
        added = torch.stack([term(logits) for term in self.terms]).sum(0)
        return added if self.weight == 0 else self.loss(logits, y) + added / self.weight

    def of(self, rows: Tensor) -> _Sum:
        """The same for some rows of the batch: attacks may let go of those that have fallen."""
        return _Sum(_rows_of(self.loss, rows), [_rows_of(term, rows) for term in self.terms], self.weight)


def _rows_of(part: Any, rows: Tensor) -> Any:
    """A loss or term for some rows of its batch, if it knows something of each."""
    return part.of(rows) if hasattr(part, "of") else part
