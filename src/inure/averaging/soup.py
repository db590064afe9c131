"""Soups: mixes of the domains of one net (Rebuffi et al., 2022; Croce et al., 2023, arXiv:2302.10164).

A mix gives each domain a weight; the weights sum to 1 and may leave [0, 1]. Grids are made in whole steps, so that
0.1 + 0.2 is 0.3.
"""

import itertools
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from ..settings.errors import UserError

Weights = dict[str, float]
GRID = "-0.4:1.4:0.1"
RULES = "robust | clean | mean | knee | clean>=SHARE"


class Point(NamedTuple):
    """A mix and what was measured of it."""

    mix: Weights
    clean: float
    robust: float


def affine_grid(domains: Sequence[str], text: str = GRID) -> list[Weights]:
    """All mixes whose weights are multiples of the step between low and high and sum to 1.

    Two domains: 19 mixes from -0.4 to 1.4 in tenths, first all in the last domain. Four domains in steps of 0.2:
    exactly 480 (Croce et al. say 460).

    Args:
        domains: Names.
        text: ``LOW:HIGH:STEP``.

    Raises:
        UserError: If the text is no such grid, or nothing in it sums to 1.
    """
    try:
        low, high, step = (Decimal(part) for part in text.split(":"))
        whole = 1 / step
        fits = step > 0 and low <= high and not whole % 1 and not (low / step) % 1 and not (high / step) % 1
    except (ValueError, InvalidOperation, ZeroDivisionError):
        fits, low, high, step, whole = False, Decimal(0), Decimal(0), Decimal(1), Decimal(1)
    if not fits:
        raise UserError("--grid", text, "LOW:HIGH:STEP, multiples of STEP, which divides 1", GRID)
    total, first, last = int(whole), int(low / step), int(high / step)
    mixes = []
    for others in itertools.product(range(first, last + 1), repeat=len(domains) - 1):
        rest = total - sum(others)
        if first <= rest <= last:
            counts = (*others, rest)
            mixes.append({name: count / total for name, count in zip(domains, counts, strict=True)})
    if not mixes:
        raise UserError("--grid", text, f"a range in which {len(domains)} weights can sum to 1", GRID)
    return mixes


def describe_mix(mix: Weights) -> str:
    """``clean=0.3,robust=0.7``, or ``robust`` for a domain alone: what ``--mode`` takes."""
    given = {name: weight for name, weight in mix.items() if weight}
    if len(given) == 1:
        return next(iter(given))
    return ",".join(f"{name}={weight:g}" for name, weight in given.items())


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Places of the points that no other beats in one accuracy without losing in the other, by clean accuracy."""
    found = [
        i
        for i, p in enumerate(points)
        if not any(q.clean >= p.clean and q.robust >= p.robust and (q.clean, q.robust) != p[1:] for q in points)
    ]
    return sorted(found, key=lambda i: (points[i].clean, i))


def choose(points: Sequence[Point], rule: str) -> int:
    """The place of the soup that a rule names.

    ``robust`` and ``clean``: the highest; ``mean``: of the two; ``knee``: the point of the Pareto front farthest
    from the line between its ends; ``clean>=0.8``: the most robust with at least 80 % clean accuracy. Ties go to the
    other accuracy, then to the mix nearest to equal weights, then to the first.

    Raises:
        UserError: For a rule that does not exist or that no soup fulfils.
    """
    bound = re.fullmatch(r"clean>=(\d+(?:\.\d*)?|\.\d+)", rule.replace(" ", ""))
    places = list(range(len(points)))
    if rule == "knee":
        return _knee(points)
    if bound:
        places = [i for i in places if points[i].clean >= float(bound[1])]
        if not places:
            best = max(p.clean for p in points)
            raise UserError("--choose", rule, f"at most clean>={best:.4f}, the best of these soups")
    keys = {
        "robust": lambda p: (p.robust, p.clean),
        "clean": lambda p: (p.clean, p.robust),
        "mean": lambda p: (round(p.clean + p.robust, 9), p.robust),  # ties are ties whatever the sums round to
    }
    if not bound and rule not in keys:
        raise UserError("--choose", rule, RULES)
    key = keys["robust" if bound else rule]
    return max(places, key=lambda i: (*key(points[i]), -unevenness(points[i].mix), -i))


def _knee(points: Sequence[Point]) -> int:
    front = pareto_front(points)
    first, last = points[front[0]], points[front[-1]]
    run, rise = last.clean - first.clean, last.robust - first.robust

    def above(i: int) -> float:
        return run * (points[i].robust - first.robust) - rise * (points[i].clean - first.clean)

    return max(front, key=lambda i: (above(i), -unevenness(points[i].mix), -i))


def unevenness(mix: Weights) -> float:
    """How far a mix is from equal weights; what decides between ties."""
    return round(sum((weight - 1 / len(mix)) ** 2 for weight in mix.values()), 9)
