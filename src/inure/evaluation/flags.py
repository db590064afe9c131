"""Flags: what makes a robustness number doubtful.

A flag is data: name, severity, what was found. ``severe`` makes the headline unverified; ``warning`` is to be read;
``note`` only informs. The thresholds are in ``FLAGS``; those of randomised, softmax, zero gradient and Square are the
reference's (AutoAttack, Croce and Hein, 2020, arXiv:2003.01690), the others ours. Found by probing the net
(``probes.py``), by the cascade (``summary.py``) and by the audit.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

_WITHOUT_GRADIENTS = ("square", "transfer")
"""How the names of attacks begin that are not guided by gradients of the net."""
_TOO_WEAK = ("fgsm", "targeted20")
"""Attacks whose failure says nothing of the net's gradients."""


class Rule(NamedTuple):
    """How serious a flag is, and from when on it is raised."""

    severity: str
    threshold: str


FLAGS = {
    "non_finite_logits": Rule("severe", "any prediction whose logits are not finite"),
    "non_finite_gradients": Rule("severe", "any gradient that is not finite"),
    "training_images": Rule("severe", "the images are those of training"),
    "randomised": Rule(
        "severe", "of 5 forwards, different counts of right answers, or normalised logits over 1e-4 apart"
    ),
    "softmax_output": Rule("severe", "all outputs in [0, 1] and all rows sum to 1, within 1e-5"),
    "zero_gradient": Rule(
        "severe", "any probed image whose margin has no gradient, or one by which no image moves it by a millionth"
    ),
    "dynamic_forward": Rule("severe", "a backward inside a forward"),
    "batch_dependent": Rule("severe", "logits move by more than 0.1 % of their size with the rest of the batch"),
    "saturated_logits": Rule(
        "severe",
        "median gap of the two largest logits over 100; under attacks on cross-entropy alone, over a quarter of the "
        "probed images with a probability that rounds to 1",
    ),
    "double_normalisation": Rule(
        "severe", "accuracy rises by over 10 points, and 2 standard errors, where one normalisation is undone"
    ),
    "missing_normalisation": Rule(
        "severe", "accuracy rises by over 10 points, and 2 standard errors, on normalised images"
    ),
    "low_precision_search": Rule("note", "attacks searched in bfloat16; verdicts are in float32"),
    "few_classes": Rule("note", "an attack of the suite needs more classes than there are; of AutoAttack: warning"),
    "many_classes": Rule("note", "an attack of the suite takes fewer classes than there are; of AutoAttack: warning"),
    "square_beats_white_box": Rule(
        "severe", "Square breaks over 0.2 % (and 2) of the examples after white-box attacks; warning where more follow"
    ),
    # From here on: found by the audit
    "transfer_beats_white_box": Rule(
        "severe", "images made for another net break over 0.2 % (and 2) of the examples after white-box attacks"
    ),
    "fgsm_beats_pgd": Rule(
        "severe", "FGSM breaks over 1 % (and 3) of the examples more than PGD-10, or PGD-10 more than PGD-100"
    ),
    "non_monotone": Rule("severe", "at a larger radius over 1 % (and 3) of the examples more stand than at a smaller"),
    "weak_attack": Rule("warning", "twice the steps of PGD-100 break over 0.2 % (and 2) of the examples more"),
    "silent_success": Rule(
        "severe", "of over 0.2 % (and 2) of the examples an iterate was misclassified, the returned image is not"
    ),
    "vanishing_gradient": Rule("severe", "over 1 % of the gradients of PGD on cross-entropy are exactly zero"),
    "unreachable_zero": Rule("severe", "any example stands against an attack without bound"),
    "verdict_reversed": Rule("severe", "a second forward of any returned image gives another prediction"),
    "catastrophic_overfitting": Rule(
        "warning",
        "FGSM leaves over 25 points more standing than PGD-10, and input gradients at the image and at a "
        "random point of the ball have a mean cosine under 0.3",
    ),
    "not_converged": Rule("warning", "the last tenth of the steps brings over 5 % of the rise of the best loss"),
    "unstable_predictions": Rule("warning", "random points of the ball change the margin by over 75 % on average"),
}


def flag(name: str, detail: str, severity: str | None = None) -> dict[str, str]:
    """One flag; its severity is the rule's unless a caller knows better."""
    return {"name": name, "severity": severity or FLAGS[name].severity, "detail": detail}


def severe(flags: Iterable[dict[str, str]]) -> list[str]:
    """The names of the severe flags. Where there is none a number is verified."""
    return [found["name"] for found in flags if found["severity"] == "severe"]


def beaten_white_box(standing: Sequence[tuple[str, int]], total: int) -> list[dict[str, str]]:
    """Whether attacks that the net's gradients do not guide broke what those with its gradients left.

    Args:
        standing: (attack, examples standing after it), in order, the clean images first; by its name an attack is
            Square, a transfer, or white-box.
        total: Of all examples.
    """
    attacks = [(name.partition("-")[0], name) for name, _ in standing[1:]]
    white = [place for place, (kind, name) in enumerate(attacks) if kind not in _WITHOUT_GRADIENTS + _TOO_WEAK]
    found = []
    for place, (kind, name) in enumerate(attacks):
        before, after = standing[place][1], standing[place + 1][1]
        broken = before - after
        if kind not in _WITHOUT_GRADIENTS or not white or place < white[0]:
            continue
        if broken >= 2 and broken / max(total, 1) > 0.002:
            detail = f"{name} broke {broken} of {before} examples that all attacks before it left: gradients mislead"
            # White-box attacks that come later may find them too: nobody looked
            found.append(flag(f"{kind}_beats_white_box", detail, "warning" if place < white[-1] else None))
    return found
