"""One line for each piece of the library; test_contracts.py puts every line through the checks of its table.

In the manner of scikit-learn's ``check_estimator``. A new attack, method, optimizer, average, perturbation, criterion
or schedule is added here, and a piece without a line fails ``test_every_piece_has_a_line``.
"""

from typing import Any, NamedTuple

from inure.attacks import (
    APGD,
    DDN,
    FAB,
    FGSM,
    NFGSM,
    PGD,
    MultiGrad,
    NoisyFGSM,
    Pyramid,
    Square,
    Targeted,
    Transferred,
    ZeroGrad,
)
from inure.averaging import EMA, SWA
from inure.balance import LDAM, BalancedSoftmax, ClassBalancedFocal, CrossEntropy, Rebalanced, RoBal, Weighted
from inure.methods import FGSMPGI, MART, PGDAT, PGDKL, TRADES, CoTraining, FastAdvProp, Free, Standard
from inure.optimizers import SGD, AdamW, DiffusionEnhanced
from inure.penalties import TAIL, GradAlign, TemporalEnsembling
from inure.perturbation import AWP
from inure.schedules import Constant, Cosine, OneCycle, Piecewise, Ramp
from inure.threat import L1, L2, Linf, ThreatModel
from tiny import tiny_net


class AttackLine(NamedTuple):
    """An attack, how many forwards of the batch one call makes, and where its images lie."""

    attack: Any
    forwards: int
    reach: ThreatModel | None = None
    """None: in its threat model, as it must be for evaluation. Else the attack is for training only."""
    stops: bool = False
    """Whether it is done with an example once that is misclassified (for verdicts): then the checks give it labels
    that the net gets right."""
    alone: bool = True
    """Whether what becomes of an image depends on it alone; False, for training only, if on the others of its batch."""


class MethodLine(NamedTuple):
    """A method, the forwards that crafting makes, and the images (per image of the batch) of its one outer forward."""

    method: Any
    crafting: int
    outer: int


class StepLine(NamedTuple):
    """A method with a step of its own, and the images of each forward of one step on a batch of 8."""

    method: Any
    forwards: list[int]


class PenaltyLine(NamedTuple):
    """A penalty, and the forwards of a batch that it adds: those before the attack, and those of the update."""

    penalty: Any
    before: int
    update: int


_LINF, _L2, _L1 = Linf(epsilon=0.05), L2(epsilon=0.4), L1(epsilon=2)
_SMALL_L1 = L1(epsilon=0.3)
_FAR_LINF, _FAR_L2, _FAR_L1 = Linf(epsilon=1), L2(epsilon=10), L1(epsilon=100)
"""Attacks of minimum norm return their images unchanged where the radius is too small."""
_SHORT, _NOISY = PGD(threat=_LINF, steps=3), PGD(threat=_LINF, steps=3, start="gaussian")

ATTACKS = [
    AttackLine(FGSM(threat=_LINF), 1),
    AttackLine(FGSM(threat=_LINF, start="uniform", step_size=0.0625), 1),
    AttackLine(FGSM(threat=_L2), 1),
    AttackLine(FGSM(threat=_L1), 1),
    AttackLine(NFGSM(threat=_LINF), 1, Linf(epsilon=0.05 * 3)),
    AttackLine(NFGSM(threat=_LINF, noise=0.5), 1, Linf(epsilon=0.05 * 1.5)),
    AttackLine(NoisyFGSM(threat=_LINF), 1, Linf(epsilon=1), alone=False),
    AttackLine(NoisyFGSM(threat=_LINF, clip=True, noise=0.5), 1, alone=False),
    AttackLine(NoisyFGSM(threat=_LINF, scale="gradient"), 2, Linf(epsilon=1), alone=False),
    AttackLine(ZeroGrad(threat=_LINF), 1),
    AttackLine(ZeroGrad(threat=_LINF, quantile=0, step_size=0.06), 1),
    AttackLine(MultiGrad(threat=_LINF), 3),
    AttackLine(MultiGrad(threat=_LINF, samples=5, agree=3), 5),
    AttackLine(PGD(threat=_LINF), 10),
    AttackLine(PGD(threat=_LINF, steps=7, step_size=0.02, start="zero"), 7),
    AttackLine(PGD(threat=_LINF, steps=5, start="gaussian"), 5),
    AttackLine(PGD(threat=_LINF, steps=5, keep="worst"), 6),
    AttackLine(PGD(threat=_LINF, steps=5, restarts=3), 18),
    AttackLine(PGD(threat=_L2, steps=20, keep="worst", restarts=2), 42),
    AttackLine(PGD(threat=_L1, steps=20), 20),
    AttackLine(PGD(threat=_LINF, steps=5, eot_samples=2), 10),
    AttackLine(APGD(threat=_LINF), 11),
    AttackLine(APGD(threat=_LINF, steps=2, start="zero"), 3),
    AttackLine(APGD(threat=_L1, steps=20), 21),
    AttackLine(APGD(threat=_L1, steps=20, large_radii=True, restarts=2), 46),
    AttackLine(APGD(threat=L2(epsilon=0.1), steps=20, restarts=2, keep="worst"), 42, stops=True),
    AttackLine(APGD(threat=_L2, steps=5, start="uniform", eot_samples=3), 18),
    AttackLine(Pyramid(threat=_LINF, cells=[3, 2, 1], scalars=[2, 1.5, 1]), 5, Linf(epsilon=0.05 * 4.5)),
    AttackLine(Pyramid(threat=_LINF, cells=[6], scalars=[4], steps=7, start="uniform"), 7, Linf(epsilon=0.05 * 4)),
    AttackLine(Square(threat=_LINF, queries=100), 100, stops=True),
    AttackLine(Square(threat=_L2, queries=100, p_init=0.3), 100, stops=True),
    AttackLine(Square(threat=_L1, queries=12, restarts=2, rescale_schedule=True), 24, stops=True),
    AttackLine(Targeted(threat=Linf(epsilon=0.01), search=PGD(steps=5, keep="worst"), targets=2), 13, stops=True),
    AttackLine(Targeted(threat=L2(epsilon=0.1), search=APGD(steps=6, keep="worst")), 22, stops=True),
    AttackLine(
        Targeted(threat=_SMALL_L1, search=APGD(threat=_SMALL_L1, steps=20, keep="worst", large_radii=True)),
        70,
        stops=True,
    ),
    AttackLine(FAB(threat=_FAR_LINF, steps=6, final_steps=2, stop_at_epsilon=False), 15, stops=True),
    AttackLine(FAB(threat=_FAR_L2, steps=6, restarts=2, stop_at_epsilon=False), 16, stops=True),
    AttackLine(FAB(threat=_FAR_L1, steps=8, targets=2, stop_at_epsilon=False), 20, stops=True),
    AttackLine(DDN(threat=_FAR_L2, steps=25, stop_at_epsilon=False), 25, stops=True),
    # On a second net with the same weights; the net that is attacked is not asked
    AttackLine(Transferred(threat=_LINF, search=APGD(steps=10)).crafted_on(tiny_net()), 0),
    AttackLine(Transferred(threat=_L2, search=PGD(steps=20), source="runs/a").crafted_on(tiny_net()), 0),
]

METHODS = [
    MethodLine(Standard(), 0, 1),
    MethodLine(PGDAT(attack=_SHORT), 3, 1),
    MethodLine(PGDAT(attack=_SHORT, attack_mode="train"), 3, 1),
    MethodLine(PGDAT(attack=FGSM(threat=_L2), attack_mode="train_frozen_stats"), 1, 1),
    # One forward more: the clean log-probabilities, once
    MethodLine(TRADES(attack=_NOISY), 4, 2),
    MethodLine(TRADES(attack=PGD(threat=_L2, steps=2, start="gaussian"), beta=1), 3, 2),
    MethodLine(MART(attack=_NOISY), 3, 2),
    MethodLine(MART(attack=PGD(threat=_L1, steps=2), beta=0), 2, 2),
    MethodLine(PGDKL(attack=_SHORT), 3, 2),
    MethodLine(PGDKL(attack=FGSM(threat=_L2), beta=0, attack_mode="train"), 1, 2),
    MethodLine(CoTraining(attack=_SHORT), 3, 2),
    MethodLine(FGSMPGI(attack=FGSM(threat=_LINF, start="uniform")), 1, 2),
    MethodLine(FGSMPGI(attack=FGSM(threat=_LINF, start="uniform"), momentum=0, weight=0, attack_mode="eval"), 1, 2),
    MethodLine(CoTraining(attack=APGD(threat=_LINF, steps=2), climbs="prediction", alpha=0.3), 4, 2),
]

STEPS = [
    StepLine(FastAdvProp(attack=FGSM(threat=_LINF)), [6, 2, 2]),
    StepLine(FastAdvProp(attack=FGSM(threat=_L2, start="uniform"), share=0.5, attack_weight=2), [4, 4, 4]),
    StepLine(FastAdvProp(share=0), [8]),
    StepLine(Free(attack=FGSM(threat=_LINF), replays=3), [8, 8, 8]),
    StepLine(Free(attack=FGSM(threat=_LINF, step_size=0.02), replays=1), [8]),
]

PENALTIES = [
    PenaltyLine(GradAlign(), 0, 2),
    PenaltyLine(GradAlign(weight=2, mode="eval"), 0, 2),
    PenaltyLine(TemporalEnsembling(), 1, 0),
    PenaltyLine(TemporalEnsembling(weight=3, momentum=0, start=0, end=0, on="auto"), 1, 0),
    PenaltyLine(TAIL(), 0, 0),
    PenaltyLine(TAIL(weight=0.05, reduction="pairwise", sign=-1, rule="counts"), 0, 0),
]

CRITERIA = [
    CrossEntropy(),
    CrossEntropy(label_smoothing=0.1),
    BalancedSoftmax(),
    BalancedSoftmax(tau=2),
    Weighted(),
    Weighted(beta=1, start=0.8),
    ClassBalancedFocal(),
    ClassBalancedFocal(form="softmax", gamma=0.5),
    LDAM(),
    LDAM(start=0.1),
    RoBal(),
    RoBal(tau_b=1.5, tau_m=0.3),
    Rebalanced(),
    Rebalanced(faithful=True),
]
PERTURBATIONS = [AWP(), AWP(gamma=0.01, warmup=0.25)]
AVERAGINGS = [EMA(), EMA(decay=0.9, warmup=False), EMA(start=0.5), SWA(), SWA(start=0)]
OPTIMIZERS = [
    SGD(),
    SGD(lr=0.05, momentum=0, nesterov=False),
    SGD(nesterov=True, decay_all=True),
    AdamW(clip_norm=1),
    DiffusionEnhanced(),
    DiffusionEnhanced(k1=0, decoupled=False),
    DiffusionEnhanced(lr=0.05, match_lr=True, weight_decay=0),
]
SCHEDULES = [Constant(warmup=0.1), Piecewise(), Piecewise(milestones=[]), Cosine(warmup=0.1), OneCycle(), Ramp()]
