"""Suites: which attacks an evaluation runs, in order. A suite is a function of the threat model."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ..attacks import FGSM, PGD
from ..attacks import Attack as AnyAttack
from ..losses import cross_entropy, hard, margin
from ..threat import Geometry
from ..types import Criterion, Labels, Logits, PerExample


class Member(NamedTuple):
    """One attack of a suite."""

    name: str
    attack: AnyAttack
    loss: Criterion


def _pgd(threat: Geometry, steps: int) -> PGD:
    """One uniform start, step epsilon / 4 (2/255 at 8/255) whatever the length, the worst iterate kept."""
    return PGD(threat=threat, steps=steps, step_size=float(threat.epsilon) / 4, start="uniform", keep="worst")


def _clean(threat: Geometry) -> list[Member]:
    return []


def _fgsm(threat: Geometry) -> list[Member]:
    return [Member("fgsm", FGSM(threat=threat), cross_entropy)]


def _pgd_suite(threat: Geometry, steps: int) -> list[Member]:
    return [Member(f"pgd{steps}", _pgd(threat, steps), cross_entropy)]


def _cw20(threat: Geometry) -> list[Member]:
    return [Member("cw20", _pgd(threat, 20), margin)]


def _quick(threat: Geometry) -> list[Member]:
    return [*_pgd_suite(threat, 20), *_cw20(threat)]


def next_class(logits: Logits, y: Labels) -> PerExample:
    """Minus the cross-entropy at the class after the label: a fixed target, the last class's is the first."""
    return -cross_entropy(logits, (hard(y) + 1) % logits.shape[1])


def _targeted(threat: Geometry) -> list[Member]:
    return [Member("targeted20", _pgd(threat, 20), next_class)]


SUITES: dict[str, Callable[[Geometry], list[Member]]] = {
    "clean": _clean,
    "fgsm": _fgsm,
    "pgd20": partial(_pgd_suite, steps=20),
    "pgd100": partial(_pgd_suite, steps=100),
    "cw20": _cw20,
    "quick": _quick,
    "targeted": _targeted,
}

ABOUT = {
    "clean": "accuracy on clean images, no attack",
    "fgsm": "one gradient step of the size of the ball; too weak to report as robustness",
    "pgd20": "PGD, 20 steps of epsilon/4 on cross-entropy, one uniform start, worst iterate",
    "pgd100": "PGD, 100 steps of epsilon/4 on cross-entropy, one uniform start, worst iterate",
    "cw20": "PGD, 20 steps of epsilon/4 on the Carlini-Wagner margin, one uniform start, worst iterate",
    "quick": "pgd20, then cw20 on what stands: the pointwise worst of both; an upper bound of AutoAttack",
    "targeted": "PGD, 20 steps of epsilon/4 towards the next class: weak, it hides failures; never report it",
}
