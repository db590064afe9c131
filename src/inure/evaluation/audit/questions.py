"""The audit of a robustness number: is it the net that withstands, or the attacks that fail?

It runs attacks of known order on a few examples (weaker and stronger, smaller and larger, with gradients and without)
and checks that the order shows. The list of questions is that of our specification, after Carlini et al. (2019,
arXiv:1902.06705) and Indicators of Attack Failure (Pintor et al., 2022, arXiv:2106.09947).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...attacks import FGSM, PGD, Square
from ...attacks.square import unbounded_margin
from ...display.console import Bars
from ...losses import cross_entropy, margin
from ...models.modes import attack_mode, frozen
from ...settings.errors import UserError
from ...threat import Geometry, Linf, describe_threat
from ..examples import Examples
from ..flags import flag
from ..metered import Metered
from ..probes import PROBED, probe
from ..suites import Member
from . import checks, signs
from .curves import RATIOS, curves_of, furthest, radii_of
from .evidence import Evidence
from .figure import draw_curves
from .local import surroundings
from .runs import Run, Subject

CHECKS = (
    checks.weaker_is_not_stronger, checks.larger_radius_breaks_more, checks.twice_the_steps,
    signs.converged, checks.best_is_returned, signs.zero_gradients, signs.finite_gradients,
    signs.same_answer_twice, signs.logits_not_probabilities, signs.scale_of_logits,
    checks.square_is_weaker, checks.transfer_is_weaker, checks.no_bound_breaks_all,
    signs.no_single_step_overfitting, signs.stable_predictions, checks.verified_again,
)  # fmt: skip

_OF_RANDOM_NETS = ("verdict_reversed", "silent_success")


@dataclass(frozen=True)
class Effort:
    """How long the attacks of an audit search."""

    short: int = 10
    """Steps of the short search."""
    steps: int = 100
    """Steps of the search that is judged; it is also run twice as long."""
    curve_steps: int = 20
    """Steps at each radius of the curve."""
    queries: int = 500
    """Of Square."""
    points: int = 100
    """Random points around each image."""

    def __post_init__(self) -> None:
        if not 1 <= self.short < self.steps:
            raise UserError("short", self.short, f"1 to {self.steps - 1}: fewer than steps")


@dataclass(frozen=True)
class Audit:
    """What an audit found; every field is plain data, fit for JSON (``dataclasses.asdict``)."""

    checks: list[dict[str, Any]]
    """letter, name, question, found (numbers), threshold (words), passed (None: not decidable), flag, detail."""
    curves: dict[str, Any]
    """``success``: points by radius; ``loss``: mean and best so far by step."""
    flags: list[dict[str, str]]
    """Those of the probe, then one for every check that is not passed; no name twice."""
    subset: dict[str, Any]
    """What it ran on: examples, size, right, seed, threat, attacks with every parameter, passes, seconds."""


def audit(
    model: Metered,
    examples: Examples,
    *,
    threat: Geometry,
    seed: int,
    batch_size: int,
    device: torch.device,
    bars: Bars,
    size: int = 128,
    transfer: Member | None = None,
    averages: bool = False,
    effort: Effort | None = None,
) -> Audit:
    """Ask whether attacks on this net do what attacks must do.

    Random numbers are a function of (seed, example, attack): neither batch size nor order matter, as far as the
    caller sees to repeatable arithmetic. The caller's counts of passes stay as they are.

    Args:
        model: The net as an evaluation has it, in float32 on ``device``; in any mode, left as it was found.
        examples: Of which the first ``size`` are used. Those wrong on the clean image are not attacked, and stay in
            all denominators.
        threat: What is claimed.
        seed: Of the random starts.
        batch_size: Examples attacked at once; halved where memory runs out.
        device: Where to compute.
        bars: Of progress.
        size: Examples of the subset; the cost is in the card.
        transfer: An attack that brings images made for another net.
        averages: Whether the attacks of the suite average over random forwards; then randomness is a note.
        effort: How long the attacks search.

    Raises:
        UserError: If ``size`` or an effort is out of range.
        RuntimeError: If an attack returned an image outside the threat model or [0, 1].
    """
    if size < 1:
        raise UserError("size", size, "a whole number >= 1", "128")
    begin, effort = time.perf_counter(), effort or Effort()
    model = Metered(model.net, model.mode, model.padding)
    doubts = probe(model, examples, device, averages=averages, size=min(size, PROBED))
    passes = _Passes(bars, _planned(effort, transfer is not None) * min(size, len(examples)))
    with attack_mode(model, "eval"), frozen(model):
        subject = Subject(model, examples, size, threat, seed, batch_size, device, passes.advance)
        evidence = _measured(subject, effort, transfer, doubts)
    passes.finish()
    checks = [check(evidence) for check in CHECKS]
    subset = _subset(subject, evidence.runs, time.perf_counter() - begin)
    return Audit(checks, evidence.curves, _flags(checks, doubts, averages), subset)


def draw(result: Audit) -> bytes:
    """Both curves as one PNG."""
    return draw_curves(result.curves)


def _measured(subject: Subject, effort: Effort, transfer: Member | None, doubts: Sequence[dict[str, str]]) -> Evidence:
    threat, steps = subject.threat, effort.steps
    largest = furthest(threat, subject.examples.images(torch.tensor([0]), torch.device("cpu")))
    fgsm = subject.run(Member("fgsm", FGSM(threat=threat), cross_entropy), 3)
    short = subject.run(_pgd(threat, effort.short), effort.short + 3)
    long = subject.run(_pgd(threat, 2 * steps), 2 * steps + 3)
    with_margin = subject.run(Member(f"cw{steps}", _pgd(threat, steps).attack, margin), steps + 3)
    unbounded = subject.run(_unbounded(steps), steps + 3, threat=Linf(epsilon=1.0))
    square = Member("square", Square(threat=threat, queries=effort.queries), unbounded_margin)
    blind = subject.run(square, effort.queries + 2, watched=False)
    foreign = subject.run(transfer, 3, watched=False) if transfer else None
    curve = _curve(subject, effort.curve_steps, largest)
    radii = [(0.0, subject.right), *((radius, run.standing) for radius, run in curve)]
    near = surroundings(subject, effort.points)
    curves = curves_of(threat, subject.logits.shape[1], radii, long.steps, steps)
    return Evidence(
        right=subject.right, logits=subject.logits, fgsm=fgsm, short=short, long=long, margin=with_margin,
        unbounded=unbounded, square=blind, transfer=foreign, curve=curve, near=near, curves=curves, doubts=doubts,
        short_steps=effort.short, steps=steps,
    )  # fmt: skip


def _curve(subject: Subject, steps: int, largest: float) -> list[tuple[float, Run]]:
    found = []
    for radius in radii_of(subject.threat, largest):
        threat = subject.threat.with_epsilon(radius)
        # One name, so one random direction for all radii
        found.append((radius, subject.run(_pgd(threat, steps), steps + 3, threat=threat)))
    return found


def _pgd(threat: Geometry, steps: int) -> Member:
    """As the suites: one uniform start, steps of epsilon / 4 whatever the length, the worst iterate kept."""
    # model_construct: radii of the curve come from numbers that were checked
    attack = PGD.model_construct(
        threat=threat, steps=steps, step_size=float(threat.epsilon) / 4, start="uniform", keep="worst"
    )
    return Member(f"pgd{steps}", attack, cross_entropy)


def _unbounded(steps: int) -> Member:
    """Any image of [0, 1] may come back, whatever the threat's norm.

    From the image itself: a random one would be misclassified already, with or without gradients.
    """
    attack = PGD(threat=Linf(epsilon=1.0), steps=steps, start="zero", keep="worst")
    return Member("unbounded", attack, unbounded_margin)


def _planned(effort: Effort, transfer: bool) -> int:
    """Forwards an example, about: what the bar counts."""
    searches = effort.short + 4 * effort.steps + len(RATIOS) * effort.curve_steps
    return searches + effort.queries + effort.points + 1 + 4 + 3 * (5 + len(RATIOS) + transfer) + 2


class _Passes:
    """One bar for the whole audit."""

    def __init__(self, bars: Bars, total: int) -> None:
        self._bars, self._total, self._done = bars, total, 0

    def advance(self, name: str, passes: int) -> None:
        self._done = min(self._done + passes, self._total)
        self._bars.show("audit", self._done, self._total, note=name)

    def finish(self) -> None:
        self._bars.show("audit", self._total, self._total)


def _flags(checks: Sequence[dict[str, Any]], doubts: Sequence[dict[str, str]], averages: bool) -> list[dict[str, str]]:
    known = {doubt["name"] for doubt in doubts}
    failed = [check for check in checks if check["passed"] is False and check["flag"] not in known]
    # A net that is known to draw at random does what it must
    expected = _OF_RANDOM_NETS if averages else ()
    return [*doubts, *(flag(c["flag"], c["detail"], "note" if c["flag"] in expected else None) for c in failed)]


def _subset(subject: Subject, runs: Sequence[Run], seconds: float) -> dict[str, Any]:
    attacks = [
        {**run.attack, "standing": int(run.standing.sum()), "largest_distance_over_epsilon": run.distance,
         "forwards": run.forwards, "backwards": run.backwards, "seconds": run.seconds}
        for run in runs
    ]  # fmt: skip
    return {
        "examples": len(subject.examples), "size": subject.size, "right": int(subject.right.sum()),
        "seed": subject.seed, "threat": describe_threat(subject.threat), "attacks": attacks,
        "forwards": subject.model.forwards, "backwards": subject.model.backwards, "seconds": seconds,
    }  # fmt: skip
