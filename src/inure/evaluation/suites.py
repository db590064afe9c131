"""Suites: which attacks an evaluation runs, in order. A suite is a function of the threat model.

Those called autoattack have the parameters of the code of AutoAttack (Croce and Hein, 2020, arXiv:2003.01690; L1: 2021,
arXiv:2103.01208), whose attacks are told apart in the cards of apgd, targeted, fab and square.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ..attacks import APGD, DDN, FAB, FGSM, PGD, Square, Targeted, Transferred
from ..attacks import Attack as AnyAttack
from ..attacks.fab import MANY_CLASSES
from ..attacks.square import unbounded_margin
from ..losses import cross_entropy, dlr, hard, margin, targeted_dlr, targeted_margin
from ..settings.errors import UserError
from ..threat import L1, L2, Geometry
from ..types import Labels, Logits, PerExample

WHOLE_BATCH = PGD | FGSM
"""Attacks that work on all images of a batch to the end; the others look at predictions, and some images leave."""


class Member(NamedTuple):
    """One attack of a suite."""

    name: str
    attack: AnyAttack | Square | Targeted | FAB | DDN | Transferred
    loss: Callable[..., PerExample]
    """(logits, y), or for ``Targeted`` (logits, y, target)."""
    classes: int = 2
    """How many classes there must be."""
    most_classes: int | None = None
    """How many there may be."""
    in_float32: bool = False
    """Whether it searches in float32 even where the others do not."""


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


def _apgd_on(
    threat: Geometry, loss: str, *, restarts: int = 1, eot_samples: int = 1, large_radii: bool = False
) -> Member:
    """100 steps on ``ce`` or ``dlr``."""
    attack = APGD(
        threat=threat, steps=100, restarts=restarts, eot_samples=eot_samples, keep="worst", large_radii=large_radii
    )  # fmt: skip
    return Member(f"apgd-{loss}", attack, cross_entropy) if loss == "ce" else Member("apgd-dlr", attack, dlr, classes=3)


def _apgd_toward(threat: Geometry, targets: int, *, large_radii: bool = False) -> Member:
    """100 steps for each class."""
    search = APGD(threat=threat, steps=100, keep="worst", large_radii=large_radii)
    return Member("apgd-t", Targeted(threat=threat, search=search, targets=targets), targeted_dlr, classes=4)


def _apgd_ce(threat: Geometry) -> list[Member]:
    l1 = isinstance(threat, L1)
    return [_apgd_on(threat, "ce", restarts=5 if l1 else 1, large_radii=l1)]


def _apgd_t(threat: Geometry) -> list[Member]:
    l1 = isinstance(threat, L1)
    return [_apgd_toward(threat, 5 if l1 else 9, large_radii=l1)]


def _apgd(threat: Geometry) -> list[Member]:
    return [*_apgd_ce(threat), *_apgd_t(threat)]


def _multi_targeted(threat: Geometry) -> list[Member]:
    attack = Targeted(threat=threat, search=_pgd(threat, 100), targets=9)
    return [Member("multi-targeted", attack, targeted_margin)]


def _square(threat: Geometry) -> list[Member]:
    """5000 queries, one start, on the margin."""
    return [Member("square", Square(threat=threat), unbounded_margin)]


def _fab_t(threat: Geometry) -> list[Member]:
    """100 steps for each of 9 classes, one start; the loss is not used."""
    return [Member("fab-t", FAB(threat=threat, targets=9), unbounded_margin)]


def _autoattack(threat: Geometry) -> list[Member]:
    return [*_apgd(threat), *_fab_t(threat), *_square(threat)]


def _autoattack_plus(threat: Geometry) -> list[Member]:
    """Also under L1 without large radii, as in the reference's code, which asks there to be checked."""
    starts = [_apgd_on(threat, loss, restarts=5) for loss in ("ce", "dlr")]
    fab = Member("fab", FAB(threat=threat, restarts=5), unbounded_margin, most_classes=MANY_CLASSES)
    return [*starts, fab, *_square(threat), _apgd_toward(threat, 9), *_fab_t(threat)]


def _autoattack_rand(threat: Geometry) -> list[Member]:
    return [_apgd_on(threat, loss, eot_samples=20) for loss in ("ce", "dlr")]


def _ddn(threat: Geometry) -> list[Member]:
    if not isinstance(threat, L2):
        raise UserError("--suite", f"ddn under {threat.kind}", "ddn under l2, where it searches", "--threat l2:0.5")
    return [Member("ddn", DDN(threat=threat), cross_entropy)]


def with_float32_search(members: list[Member], threat: Geometry, classes: int) -> list[Member]:
    """The attacks of a suite that searches in low precision, and one in float32 for what they left.

    APGD towards 3 classes, on the margin where there are fewer than 4; before Square, which is dear and decides in
    float32 anyway. It averages over as many forwards as the others.
    """
    search = APGD(threat=threat, steps=100, keep="worst", eot_samples=votes_of(members))
    last = Member("apgd-t-float32", Targeted(threat=threat, search=search, targets=3), targeted_dlr, 4, None, True)
    if classes < last.classes:
        last = Member("apgd-margin-float32", search, unbounded_margin, in_float32=True)
    square = [m for m in members if isinstance(m.attack, Square)]
    return [*(m for m in members if m not in square), last, *square] if members else []


def votes_of(members: list[Member]) -> int:
    """Over how many forwards attacks average, and so must verdicts."""
    searches = [m.attack.search if isinstance(m.attack, Targeted) else m.attack for m in members]
    return max((getattr(search, "eot_samples", 1) for search in searches), default=1)


def is_full(suite: str) -> bool:
    """Whether it is a version of AutoAttack; all others are upper bounds of it."""
    return suite.startswith("autoattack")


SUITES: dict[str, Callable[[Geometry], list[Member]]] = {
    "clean": _clean,
    "fgsm": _fgsm,
    "pgd20": partial(_pgd_suite, steps=20),
    "pgd100": partial(_pgd_suite, steps=100),
    "cw20": _cw20,
    "quick": _quick,
    "autoattack": _autoattack,
    "autoattack_plus": _autoattack_plus,
    "autoattack_rand": _autoattack_rand,
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
    "autoattack": "AutoAttack, version standard: apgd_ce, apgd_t, fab_t, square; the number to report",
    "autoattack_plus": "AutoAttack, version plus: APGD on CE and DLR from 5 starts, FAB from 5, square, apgd_t, fab_t",
    "autoattack_rand": "AutoAttack, version rand, for nets that draw at random: APGD on CE and DLR, EoT of 20 forwards",
    "apgd": "apgd_ce, then apgd_t on what stands: the first two attacks of AutoAttack, so an upper bound of it",
    "apgd_ce": "APGD, 100 steps on cross-entropy; L1: 5 restarts, large radii",
    "apgd_t": "APGD, 100 steps towards each of the 9 likeliest wrong classes (DLR); L1: 5 classes, large radii",
    "multi_targeted": "PGD, 100 steps of epsilon/4 towards each of the 9 likeliest wrong classes (margin)",
    "fab_t": "FAB, 100 steps to the nearest boundary of each of the 9 likeliest wrong classes; AutoAttack's third",
    "square": "Square, 5000 queries without any gradient, on the margin; the last attack of AutoAttack",
    "ddn": "DDN, 100 steps, L2 only: a search for the nearest misclassified point",
    "targeted": "PGD, 20 steps of epsilon/4 towards the next class: weak, it hides failures; never report it",
}
