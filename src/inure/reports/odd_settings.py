"""What of a recipe is out of the ordinary, in words: rows of the table of settings that most runs do not have."""

from typing import Any

from .run_files import RunFiles, dig, number, records

Rows = list[tuple[str, str | None]]


def odd_settings(run: RunFiles) -> Rows:
    """(label, text); None where a recipe has nothing of it."""
    recipe, balance = run.recipe, run.recipe.get("balance")
    return [
        ("Long tail", _long_tail(run)),
        ("Label noise", _label_noise(run)),
        ("Criterion of the update", _criterion(dig(balance, "train"))),
        ("Criterion of the attack", _criterion(dig(balance, "attack"))),
        ("Radii by class", settings_text(dig(balance, "epsilon"))),
        ("Penalties", "; ".join(filter(None, map(settings_text, records(recipe.get("penalties"))))) or None),
        ("Tricks while crafting", _tricks(recipe.get("crafting"))),
        ("Epsilon times", settings_text(dig(recipe, "regime.epsilon"))),
        ("Steps times", settings_text(dig(recipe, "regime.steps"))),
        ("Phases", _phases(run)),
        ("Perturbation of the weights", settings_text(recipe.get("perturbation"))),
        ("Averaging of the weights", settings_text(recipe.get("averaging"))),
        ("At catastrophic overfitting", _guard(dig(recipe, "guards.catastrophic"))),
    ]


def optimizer_text(optimizer: Any) -> str | None:
    """``sgd``; of an unusual one also what it is set to."""
    kind = dig(optimizer, "kind")
    if kind in (None, "sgd", "adamw"):
        return kind
    return settings_text({key: value for key, value in optimizer.items() if key not in ("lr", "weight_decay")})


def settings_text(piece: Any) -> str | None:
    """``ema, decay 0.999``: kind and settings of a piece, without those that are off; None without a piece."""
    if not isinstance(piece, dict):
        return None
    words = [str(piece["kind"]).replace("_", " ")] if piece.get("kind") else []
    for key, value in piece.items():
        if key == "kind" or value is None or value is False or isinstance(value, dict | list):
            continue
        name = key.replace("_", " ")
        shown = f"{value:.6g}" if isinstance(value, float) else str(value).replace("_", " ")
        words.append(name if value is True else f"{name} {shown}")
    return ", ".join(words) or "on"


def _long_tail(run: RunFiles) -> str | None:
    tail = dig(run.recipe, "data.long_tail")
    if not isinstance(tail, dict):
        return None
    words = settings_text({key: value for key, value in tail.items() if key not in ("seed", "order")})
    counts = dig(run.run, "data.true_class_counts") or dig(run.run, "data.class_counts")
    if not isinstance(counts, list) or not counts or any(number(count) is None for count in counts):
        return words
    return f"{words}: {max(counts):,} to {min(counts):,} images of a class"


def _label_noise(run: RunFiles) -> str | None:
    noise = dig(run.recipe, "data.label_noise")
    if not isinstance(noise, dict):
        return None
    words = settings_text({key: value for key, value in noise.items() if key != "seed"})
    changed, total = (number(dig(run.run, f"data.{key}")) for key in ("changed_labels", "train_examples"))
    return words if changed is None or not total else f"{words}: {100 * changed / total:.1f}\u00a0% of the labels wrong"


def _criterion(criterion: Any) -> str | None:
    if dig(criterion, "kind") == "cross_entropy" and not dig(criterion, "label_smoothing"):
        return None
    return settings_text(criterion)


def _tricks(crafting: Any) -> str | None:
    """``attention_dropping, perturbation_masking``; None without."""
    on = [name for name, settings in crafting.items() if settings is not None] if isinstance(crafting, dict) else []
    return ", ".join(on) or None


def _guard(action: Any) -> str | None:
    """None if it is the usual one, which warns."""
    return None if action in (None, "warn") else str(action)


def _phases(run: RunFiles) -> str | None:
    """``clean images until 40 %, then fgsm until 60 %, then the method: 70 % of the passes saved``."""
    phases = records(dig(run.recipe, "regime.phases"))
    if not phases:
        return None
    parts = []
    for phase in phases:
        until = number(phase.get("until"))
        share = "?" if until is None else f"{100 * until:.3g}"
        attack = str(dig(phase, "attack.kind") or "clean images").replace("_", "-")
        earlier = " at the latest" if phase.get("below") else ""
        parts.append(f"{attack} until {share}\u00a0%{earlier}")
    saved = number(dig(run.run, "phases.saved"))
    end = "" if saved is None else f": {100 * saved:.0f}\u00a0% of the passes saved"
    return ", then ".join([*parts, "the method"]) + end
