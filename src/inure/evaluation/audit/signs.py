"""What an audit asks about gradients, logits and the loss.

Thresholds are constants here and words in ``flags.FLAGS``. That of convergence is from Indicators of Attack Failure
(Pintor et al., 2022, arXiv:2106.09947), those of randomised outputs and softmax are AutoAttack's. The others are ours.
"""

from typing import Any

from .curves import last_part, number
from .evidence import Evidence, answer, count

ZERO_GRADIENTS = 0.01
"""Ours: the nets of our tests that hide nothing have none."""
LAST_RISE = 0.05
"""Indicators of Attack Failure: the best loss, rescaled to [0, 1], rises by more in the last tenth of the steps."""
OVERFIT_GAP, OVERFIT_COSINE = 0.25, 0.3
"""Ours: catastrophic overfitting shows both (Andriushchenko and Flammarion, 2020, arXiv:2007.02617)."""
INSTABILITY = 0.75
"""Ours: the authors' code names none. Chosen after four nets that hide nothing had 0.04 to 0.38, one of them 0.58 at a
radius that breaks all its examples."""


def zero_gradients(e: Evidence) -> dict[str, Any]:
    """(e) The way has gradients."""
    share = float(e.long.steps.zero.double().mean()) if e.long.steps is not None else 0.0
    text = f"{100 * share:.3g} % of the gradients of the cross-entropy on the way are exactly zero"
    return answer("e", "zero_gradients", "Are there gradients all the way?", {"share": share},
                  e.decided(not share > ZERO_GRADIENTS), "vanishing_gradient", text)  # fmt: skip


def finite_gradients(e: Evidence) -> dict[str, Any]:
    """(e) They are numbers."""
    share = float(e.long.steps.bad.double().mean()) if e.long.steps is not None else 0.0
    text = f"{100 * share:.3g} % of the gradients on the way are not finite"
    return answer("e", "finite_gradients", "Are all gradients finite?", {"share": share},
                  e.decided(share == 0), "non_finite_gradients", text)  # fmt: skip


def same_answer_twice(e: Evidence) -> dict[str, Any]:
    """(f) Forwards of the same images agree."""
    return _probed(e, "f", "same_answer_twice", "Do five forwards agree?", {}, "randomised", "they agree")


def logits_not_probabilities(e: Evidence) -> dict[str, Any]:
    """(g) The outputs are no softmax."""
    question, otherwise = "Are the outputs logits?", "not in [0, 1], or they do not sum to 1"
    return _probed(e, "g", "logits_not_probabilities", question, {}, "softmax_output", otherwise)


def scale_of_logits(e: Evidence) -> dict[str, Any]:
    """(g) Their scale leaves the cross-entropy a gradient."""
    found: dict[str, Any] = {}
    text = "a single class"
    if e.logits.shape[1] > 1:
        top = e.logits.double().topk(2, dim=1).values
        gap = top[:, 0] - top[:, 1]
        found = {"mean_gap": number(gap.mean()), "median_gap": number(gap.median())}
        text = f"the two largest logits are {float(gap.mean()):.3g} apart on average"
    question = "Is the scale of the logits one that float32 can take?"
    return _probed(e, "g", "scale_of_logits", question, found, "saturated_logits", text)


def no_single_step_overfitting(e: Evidence) -> dict[str, Any]:
    """(j) The loss is about linear in the ball, and one step is not much weaker than ten."""
    question, name = "Is the loss about linear in the ball?", "no_single_step_overfitting"
    if e.near is None:
        return answer("j", name, question, {}, None, "catastrophic_overfitting", "nothing is right")
    gap = (count(e.fgsm.standing) - count(e.short.standing)) / e.size
    error = (e.near.predicted - e.near.rise).abs().sum() / e.near.rise.abs().sum()
    cosine = float(e.near.cosine.mean())
    found = {"fgsm_minus_pgd": gap, "relative_linear_error": number(error), "gradient_cosine": number(cosine)}
    text = f"FGSM leaves {100 * gap:.1f} points more than PGD-{e.short_steps}, mean gradient cosine {cosine:.2f}"
    return answer("j", name, question, found, not (gap > OVERFIT_GAP and cosine < OVERFIT_COSINE),
                  "catastrophic_overfitting", text)  # fmt: skip


def converged(e: Evidence) -> dict[str, Any]:
    """(c) The last steps hardly raise the best loss."""
    share = last_part(e.curves["loss"]["best"][: e.steps + 1])
    passed, text = None, "the loss does not rise"
    if share is not None:
        passed = not share > LAST_RISE
        text = f"the last tenth of {e.steps} steps brings {100 * share:.2g} % of the rise of the best loss"
    found = {"share_of_the_rise": share}
    return answer("c", "converged", "Did the search converge?", found, passed, "not_converged", text)


def stable_predictions(e: Evidence) -> dict[str, Any]:
    """(j) Random points of the ball hardly change the margin."""
    question, name = "Does the margin stay about the same at random points of the ball?", "stable_predictions"
    if e.near is None:
        return answer("j", name, question, {}, None, "unstable_predictions", "nothing is right")
    value = number(e.near.instability.mean())
    passed = None if value is None else not value > INSTABILITY
    text = "the margin is not finite" if value is None else f"it changes by {100 * value:.3g} % of itself on average"
    return answer("j", name, question, {"mean_relative_change": value}, passed, "unstable_predictions", text)


def _probed(
    e: Evidence, letter: str, name: str, question: str, found: dict[str, Any], flag: str, otherwise: str
) -> dict[str, Any]:
    """What the probe of the evaluation found, told as a check."""
    doubt = next((d for d in e.doubts if d["name"] == flag), None)
    return answer(letter, name, question, found, doubt is None, flag, doubt["detail"] if doubt else otherwise)
