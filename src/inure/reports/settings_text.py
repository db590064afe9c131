"""Settings, environments and commands in words, for the page."""

import json
import shlex
from collections.abc import Sequence
from typing import Any

from ..settings.config import parse_real
from .names import data_name, method_name
from .odd_settings import odd_settings, optimizer_text
from .run_files import RunFiles, dig, number, records, whole

Facts = list[tuple[str, str]]
_NORMS = {"linf": "ℓ∞", "l2": "ℓ₂", "l1": "ℓ₁"}


def title_of(runs: Sequence[RunFiles]) -> str:
    """What the page is about, in a line: ``PGD-AT and standard training on digits``."""
    methods, sources = (
        dict.fromkeys(method_name(run.recipe) or run.name for run in runs),
        {data_name(run) for run in runs},
    )
    if len(methods) < len(runs) or len(runs) > 3 or len(sources) > 1:
        return f"{len(runs)} runs compared"
    source = sources.pop()
    title = " and ".join(", ".join(methods).rsplit(", ", 1)) + (f" on {source}" if source else "")
    return title[:1].upper() + title[1:]


def evaluation_text(summary: dict[str, Any]) -> str:
    """``suite quick (pgd20, cw20) · ℓ∞, ε = 8/255 · 360 examples``: what comparable accuracies share."""
    attacks = ", ".join(str(attack.get("name", "?")) for attack in records(summary.get("attacks")))
    suite, mode = str(summary.get("suite", "?")), summary.get("mode")
    parts = [f"suite {suite} ({attacks})" if attacks and attacks != suite else f"suite {suite}"]
    if summary.get("threat") and attacks:
        parts.append(threat_text(*str(summary["threat"]).partition(":")[::2]))
    if mode:
        parts.append(f"mix {plain(mode)}")
    count = whole(summary.get("examples"))
    return " · ".join([*parts, f"{count:,} {'example' if count == 1 else 'examples'}"])


def threat_text(kind: Any, epsilon: Any) -> str:
    """``ℓ∞, ε = 8/255``."""
    try:
        value = float(parse_real(epsilon))
    except (TypeError, ValueError):
        return f"{_NORMS.get(str(kind), kind)}, ε\u00a0=\u00a0{epsilon}"
    in_255 = 255 * value
    is_decimal = abs(1000 * value - round(1000 * value)) < 1e-9
    is_fraction = not is_decimal and round(in_255) > 0 and abs(in_255 - round(in_255)) < 1e-3
    return f"{_NORMS.get(str(kind), kind)}, ε\u00a0=\u00a0{f'{round(in_255)}/255' if is_fraction else f'{value:g}'}"


def setting_facts(run: RunFiles) -> Facts:
    """What was trained, on what and how, as far as it is known."""
    recipe, data = run.recipe, run.run.get("data")
    shape, attack = run.run.get("input_shape"), dig(run.recipe, "method.attack")
    seconds = number(run.run.get("seconds"))
    pairs = [
        ("Method", dig(recipe, "method.kind")),
        ("Training attack", _attack_text(attack) if isinstance(attack, dict) else None),
        ("Model", dig(recipe, "model.name")),
        ("Input", " × ".join(map(str, shape)) if isinstance(shape, list) else None),
        ("Classes", run.run.get("num_classes")),
        ("Data", dig(data, "source") or dig(recipe, "data.source")),
        ("Training images", dig(data, "train_examples")),
        ("Validation images", dig(data, "validation_examples")),
        ("Skipped images", dig(data, "skipped") or None),
        ("Data fingerprint", str(dig(data, "hash"))[:16] if dig(data, "hash") else None),
        *odd_settings(run),
        ("Optimizer", optimizer_text(recipe.get("optimizer"))),
        ("Learning rate", dig(recipe, "optimizer.lr")),
        ("Epochs", recipe.get("epochs")),
        ("Batch size", recipe.get("batch_size")),
        ("Seed", recipe.get("seed")),
        ("Training time", duration(seconds) if seconds is not None else None),
        ("Run directory", str(run.path)),
    ]
    return [(label, plain(value)) for label, value in pairs if value is not None]


def protocols(run: RunFiles) -> list[tuple[str, str]]:
    """The fingerprint of every evaluation, in full."""
    return [
        (evaluation_text(e.summary), json.dumps(e.summary["protocol"], indent=2, ensure_ascii=False))
        for e in (*run.evaluations, *run.shifted)
        if "protocol" in e.summary
    ]


def environment_facts(run: RunFiles) -> Facts:
    """Versions and machine; packages and the command stand elsewhere."""
    return [(key, plain(value)) for key, value in run.environment.items() if key not in ("packages", "command")]


def packages_text(run: RunFiles) -> str:
    """``numpy 2.4.6, pyarrow 26.0.1``."""
    packages = run.environment.get("packages")
    known = packages.items() if isinstance(packages, dict) else []
    return ", ".join(f"{name} {version}" for name, version in known if version)


def differing_settings(runs: Sequence[RunFiles]) -> list[tuple[str, list[str]]]:
    """The recipe keys at which the runs differ, with each run's value."""
    flat = [_flat(run.recipe) for run in runs]
    rows = [
        (key, [tree.get(key) for tree in flat])
        for key in dict.fromkeys(key for tree in flat for key in tree if key != "about")
    ]
    return [(key, [plain(v) for v in values]) for key, values in rows if any(v != values[0] for v in values)]


def commands(run: RunFiles) -> list[tuple[str, str]]:
    """What to type to get this run and its evaluations again: (what it does, command)."""
    found = []
    if command := run.run.get("command") or run.environment.get("command"):
        found.append(("Train", shlex.join(map(str, command)) if isinstance(command, list) else str(command)))
    for evaluation in (*run.evaluations, *run.shifted):
        if command := evaluation.summary.get("command"):
            text = shlex.join(map(str, command)) if isinstance(command, list) else str(command)
            found.append((f"Evaluate, suite {evaluation.summary.get('suite')}", text))
    return found


def duration(seconds: float) -> str:
    """``1 h 5 min``, ``2 min 5 s`` or ``12.3 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min {int(seconds % 60)} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def plain(value: Any) -> str:
    """A value of JSON or YAML as a reader would write it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _attack_text(attack: dict[str, Any]) -> str:
    parts = [str(attack.get("kind", "?")), f"{attack['steps']} steps" if attack.get("steps") else ""]
    if dig(attack, "threat.epsilon") is not None:
        parts.append(threat_text(dig(attack, "threat.kind"), dig(attack, "threat.epsilon")))
    return ", ".join(filter(None, parts))


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
