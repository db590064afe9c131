"""Suites: which attacks an evaluation runs, in order. A suite is a function of the threat model."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ..attacks import APGD, DDN, FAB, FGSM, PGD, Square, Targeted
from ..attacks import Attack as AnyAttack
from ..attacks.square import unbounded_margin
from ..errors import UserError
from ..losses import cross_entropy, hard, margin, targeted_dlr, targeted_margin
from ..threat import L1, L2, Geometry
from ..types import Labels, Logits, PerExample


class Member(NamedTuple):
    """One attack of a suite."""

    name: str
    attack: AnyAttack | Square | Targeted | FAB | DDN
    loss: Callable[..., PerExample]
    """(logits, y), or for ``Targeted`` (logits, y, target)."""
    classes: int = 2
    """How many classes there must be."""


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


def _apgd_ce(threat: Geometry) -> list[Member]:
    """As in AutoAttack: 100 steps, one start; under L1 five, with large radii."""
    l1 = isinstance(threat, L1)
    attack = APGD(threat=threat, steps=100, restarts=5 if l1 else 1, keep="worst", large_radii=l1)
    return [Member("apgd-ce", attack, cross_entropy)]


def _apgd_t(threat: Geometry) -> list[Member]:
    """As in AutoAttack: 100 steps for each of 9 classes; under L1 of 5, with large radii."""
    l1 = isinstance(threat, L1)
    search = APGD(threat=threat, steps=100, keep="worst", large_radii=l1)
    attack = Targeted(threat=threat, search=search, targets=5 if l1 else 9)
    return [Member("apgd-t", attack, targeted_dlr, classes=4)]


def _apgd(threat: Geometry) -> list[Member]:
    return [*_apgd_ce(threat), *_apgd_t(threat)]


def _multi_targeted(threat: Geometry) -> list[Member]:
    attack = Targeted(threat=threat, search=_pgd(threat, 100), targets=9)
    return [Member("multi-targeted", attack, targeted_margin)]


def _square(threat: Geometry) -> list[Member]:
    """As in AutoAttack: 5000 queries, one start, on the margin."""
    return [Member("square", Square(threat=threat), unbounded_margin)]


def _fab_t(threat: Geometry) -> list[Member]:
    """As in AutoAttack: 100 steps for each of 9 classes, one start; the loss is not used."""
    return [Member("fab-t", FAB(threat=threat, targets=9), unbounded_margin)]


def _ddn(threat: Geometry) -> list[Member]:
    if not isinstance(threat, L2):
        raise UserError("--suite", f"ddn under {threat.kind}", "ddn under l2, where it searches", "--threat l2:0.5")
    return [Member("ddn", DDN(threat=threat), cross_entropy)]


SUITES: dict[str, Callable[[Geometry], list[Member]]] = {
    "clean": _clean,
    "fgsm": _fgsm,
    "pgd20": partial(_pgd_suite, steps=20),
    "pgd100": partial(_pgd_suite, steps=100),
    "cw20": _cw20,
    "quick": _quick,
    "apgd": _apgd,
    "apgd_ce": _apgd_ce,
    "apgd_t": _apgd_t,
    "multi_targeted": _multi_targeted,
    "fab_t": _fab_t,
    "square": _square,
    "ddn": _ddn,
    "targeted": _targeted,
}

ABOUT = {
    "clean": "accuracy on clean images, no attack",
    "fgsm": "one gradient step of the size of the ball; too weak to report as robustness",
    "pgd20": "PGD, 20 steps of epsilon/4 on cross-entropy, one uniform start, worst iterate",
    "pgd100": "PGD, 100 steps of epsilon/4 on cross-entropy, one uniform start, worst iterate",
    "cw20": "PGD, 20 steps of epsilon/4 on the Carlini-Wagner margin, one uniform start, worst iterate",
    "quick": "pgd20, then cw20 on what stands: the pointwise worst of both; an upper bound of AutoAttack",
    "apgd": "apgd_ce, then apgd_t on what stands: the first two attacks of AutoAttack, so an upper bound of it",
    "apgd_ce": "APGD, 100 steps on cross-entropy; L1: 5 restarts, large radii",
    "apgd_t": "APGD, 100 steps towards each of the 9 likeliest wrong classes (DLR); L1: 5 classes, large radii",
    "multi_targeted": "PGD, 100 steps of epsilon/4 towards each of the 9 likeliest wrong classes (margin)",
    "fab_t": "FAB, 100 steps to the nearest boundary of each of the 9 likeliest wrong classes; AutoAttack's third",
    "square": "Square, 5000 queries without any gradient, on the margin; the last attack of AutoAttack",
    "ddn": "DDN, 100 steps, L2 only: a search for the nearest misclassified point",
    "targeted": "PGD, 20 steps of epsilon/4 towards the next class: weak, it hides failures; never report it",
}
