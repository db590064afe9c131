"""What a recipe is usually called: its method by the attack and the penalties, and its data by what is odd in them."""

from typing import Any

from .run_files import RunFiles, dig, records

_METHODS = {
    "pgd_at": "PGD-AT",
    "trades": "TRADES",
    "mart": "MART",
    "pgd_kl": "PGD-AT + KL",
    "standard": "standard training",
    "co_training": "co-training",
    "fast_adv_prop": "Fast AdvProp",
    "free": "Free-AT",
    "fgsm_pgi": "FGSM-PGI",
}
_ATTACKS = {
    "fgsm": "FGSM",
    "n_fgsm": "N-FGSM",
    "noisy_fgsm": "Noisy-FGSM",
    "zero_grad": "ZeroGrad",
    "multi_grad": "MultiGrad",
    "apgd": "APGD",
    "pyramid": "Pyramid",
}
_ALONE = ("n_fgsm", "noisy_fgsm", "zero_grad", "multi_grad")
"""Attacks after which their training is called."""
_PENALTIES = {"grad_align": "GradAlign", "tail": "TAIL", "temporal_ensembling": "TE"}
_OWN_ATTACK = ("fgsm_pgi", "free", "co_training", "fast_adv_prop")
"""Methods whose name says enough of their attack."""


def method_name(recipe: dict[str, Any]) -> str:
    """``PGD-AT``, ``N-FGSM``, ``TRADES (FGSM)``, ``FGSM-AT with GradAlign``; empty if unknown."""
    kind = dig(recipe, "method.kind")
    if not kind:
        return ""
    name = _attacked_by(str(kind), dig(recipe, "method.attack"))
    penalties = [str(penalty.get("kind", "?")) for penalty in records(recipe.get("penalties"))]
    named = " and ".join(dict.fromkeys(_PENALTIES.get(penalty, penalty) for penalty in penalties))
    return f"{name} with {named}" if named else name


def data_name(run: RunFiles) -> str:
    """``digits``, ``long-tailed digits with noisy labels``: the last part of the source; empty if unknown."""
    source = str(dig(run.recipe, "data.source") or dig(run.run, "data.source") or "").rstrip("/").rpartition("/")[2]
    if not source:
        return ""
    tail = "long-tailed " if dig(run.recipe, "data.long_tail") is not None else ""
    noise = dig(run.recipe, "data.label_noise")
    words = "" if noise is None else " with random labels" if dig(noise, "rate") == 1 else " with noisy labels"
    return f"{tail}{source}{words}"


def deciding_metric(recipe: dict[str, Any]) -> str:
    """The validation accuracy by which the best epoch is chosen, as records name it; empty if unknown."""
    method, metric = recipe.get("method"), dig(recipe, "checkpoint.metric") or "auto"
    if not isinstance(method, dict):
        return ""
    if metric == "auto":
        metric = "robust" if "attack" in method else "clean"
        metric = metric if dig(recipe, "data.long_tail") is None else f"balanced_{metric}"
    return f"{metric}_accuracy"


def _attacked_by(kind: str, attack: Any) -> str:
    searched = str(dig(attack, "kind") or "pgd")
    name = _METHODS.get(kind, kind)
    if searched == "pgd" or kind in _OWN_ATTACK:
        return name
    called = _ATTACKS.get(searched, searched)
    if kind != "pgd_at":
        return f"{name} ({called})"
    if searched == "fgsm" and dig(attack, "start") == "uniform":
        return "RS-FGSM"
    return called if searched in _ALONE else f"{called}-AT"
