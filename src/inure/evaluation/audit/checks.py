"""What an audit asks about who stands after which attack.

Thresholds are constants here and words in ``flags.FLAGS``. Those of Square are the reference's (AutoAttack); 0.2 points
for twice the steps and 0 % without a bound are the specification's, after Carlini et al. (2019, arXiv:1902.06705),
whose demand of more success at a larger radius has a tolerance of ours. The others are ours.
"""

from typing import Any

from ..flags import beaten_white_box
from .evidence import Evidence, answer, beyond, count
from .runs import Run

NOISE = 0.01
"""Ours: a weaker attack may break so many of the examples more, a larger radius so many fewer."""
NOISE_EXAMPLES = 3
"""Ours: fewer are never a fault: one or two are decided by the random start."""
GAIN = 0.002
"""The specification's: 0.2 points."""
GAIN_EXAMPLES = 2
"""Ours: from one example nothing follows."""


def weaker_is_not_stronger(e: Evidence) -> dict[str, Any]:
    """(a) Fast gradient sign, a short and a long search break ever more."""
    standing = {"fgsm": e.fgsm.standing, f"pgd{e.short_steps}": e.short.standing,
                f"pgd{e.steps}": e.standing_after(e.steps)}  # fmt: skip
    names, masks = list(standing), list(standing.values())
    found: dict[str, Any] = {f"broken_by_{name}": count(e.right & ~mask) for name, mask in standing.items()}
    worse = []
    for i in range(2):
        only = found[f"only_{names[i]}_not_{names[i + 1]}"] = count(masks[i + 1] & ~masks[i] & e.right)
        excess = found[f"broken_by_{names[i]}"] - found[f"broken_by_{names[i + 1]}"]
        if beyond(excess, e.size, NOISE, NOISE_EXAMPLES):
            worse.append(f"{names[i]} breaks {excess} examples more than {names[i + 1]} ({only} that it does not)")
    text = "; ".join(worse) or "; ".join(f"{name} breaks {found[f'broken_by_{name}']}" for name in names)
    return answer("a", "weaker_is_not_stronger", "Does no attack break more than a stronger one?", found,
                  e.decided(not worse), "fgsm_beats_pgd", text)  # fmt: skip


def larger_radius_breaks_more(e: Evidence) -> dict[str, Any]:
    """(b) Success never falls with the radius."""
    counts = [count(mask) for _, mask in e.radii]
    excess = [count - min(counts[: i + 1]) for i, count in enumerate(counts)]
    again = [count(e.radii[i][1] & ~e.radii[i - 1][1]) for i in range(1, len(counts))]
    worst = max(excess)
    radius = e.radii[excess.index(worst)][0]
    found = {"standing": counts, "most_more_at_a_larger_radius": worst, "stand_again": sum(again)}
    text = f"at radius {radius:.4g} {worst} more examples stand than at a smaller one" if worst else "never more stand"
    passed = not beyond(worst, e.size, NOISE, NOISE_EXAMPLES)
    return answer("b", "larger_radius_breaks_more", "Does a larger radius never break fewer?", found,
                  e.decided(passed), "non_monotone", f"{text}; standing {counts}")  # fmt: skip


def twice_the_steps(e: Evidence) -> dict[str, Any]:
    """(c) More steps from the same start do not help."""
    once, twice = count(e.standing_after(e.steps)), count(e.standing_after(2 * e.steps))
    found = {"standing": once, "standing_with_twice_the_steps": twice, "points": 100 * (once - twice) / e.size}
    text = f"{2 * e.steps} steps break {once - twice} of {e.size} examples more than {e.steps}"
    passed = not beyond(once - twice, e.size, GAIN, GAIN_EXAMPLES)
    return answer("c", "twice_the_steps", "Do twice as many steps change nothing?", found,
                  e.decided(passed), "weak_attack", text)  # fmt: skip


def best_is_returned(e: Evidence) -> dict[str, Any]:
    """(d) What an iterate broke, the returned image breaks."""
    best, returned = e.standing_after(2 * e.steps), e.long.standing
    last = e.right.clone()
    if e.long.steps is not None:
        last[e.right] = ~e.long.steps.fooled[-1]
    silent = count(returned & ~best)
    found = {"standing_by_best_iterate": count(best), "standing_by_last_iterate": count(last),
             "standing_by_returned_image": count(returned), "silent_successes": silent}  # fmt: skip
    gap = count(last & ~best)
    text = f"{silent} iterates broke what the returned image does not; the last iterate alone would miss {gap}"
    passed = not beyond(silent, e.size, GAIN, GAIN_EXAMPLES)
    return answer("d", "best_is_returned", "Is an image that broke the net on the way also returned?", found,
                  e.decided(passed), "silent_success", text)  # fmt: skip


def square_is_weaker(e: Evidence) -> dict[str, Any]:
    """(h) A search without gradients finds nothing new."""
    question = "Does Square, without gradients, break nothing that gradients leave?"
    found, before, after = _against_white_box(e, e.square)
    raised = beaten_white_box([("clean", before), ("gradients", before), ("square", after)], e.size)
    text = raised[0]["detail"] if raised else f"Square breaks {found['broken']}, {before - after} that gradients leave"
    return answer("h", "square_is_weaker", question, found, e.decided(not raised), "square_beats_white_box", text)


def transfer_is_weaker(e: Evidence) -> dict[str, Any]:
    """(h) Images made for another net find nothing new."""
    question, name = "Do images made for another net break nothing that gradients leave?", "transfer_is_weaker"
    if e.transfer is None:
        return answer("h", name, question, {}, None, "transfer_beats_white_box", "no other net was given")
    found, before, after = _against_white_box(e, e.transfer)
    passed = not beyond(before - after, e.size, GAIN, GAIN_EXAMPLES)
    text = f"images for another net break {found['broken']}, {before - after} of {before} that gradients leave"
    return answer("h", name, question, found, e.decided(passed), "transfer_beats_white_box", text)


def no_bound_breaks_all(e: Evidence) -> dict[str, Any]:
    """(i) An attack that may paint any image reaches 0 %."""
    standing = count(e.unbounded.standing)
    text = f"{standing} of {count(e.right)} examples stand where any image is allowed"
    return answer("i", "no_bound_breaks_all", "Does an attack without bound reach 0 %?", {"standing": standing},
                  e.decided(standing == 0), "unreachable_zero", text)  # fmt: skip


def verified_again(e: Evidence) -> dict[str, Any]:
    """(k) Every returned image is in ball and box (``judge`` raises otherwise), and is judged the same twice."""
    turned = sum(run.reversed for run in e.runs)
    found = {"images": len(e.runs) * count(e.right), "largest_distance_over_epsilon": max(r.distance for r in e.runs),
             "reversed": turned}  # fmt: skip
    text = f"{found['images']} images checked in float64, {turned} judged otherwise by a second forward"
    return answer("k", "verified_again", "Is every returned image allowed, and its verdict repeatable?", found,
                  e.decided(turned == 0), "verdict_reversed", text)  # fmt: skip


def _against_white_box(e: Evidence, run: Run) -> tuple[dict[str, Any], int, int]:
    """Numbers, how many stand after the attacks with gradients, and how many after this one too."""
    before, after = count(e.white_box), count(e.white_box & run.standing)
    found = {
        "broken": count(e.right & ~run.standing), "broken_by_white_box": count(e.right & ~e.white_box),
        "broken_only_here": before - after,
    }  # fmt: skip
    return found, before, after
