"""What ends a run early: a mistake of the user (one line, with the remedy), a signal, a number that is not finite."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class UserError(ValueError):
    """A mistake of the user, worth one line and exit code 2.

    Args:
        setting: The key, option or file at fault, such as ``method.attack.steps``. Validators that do not
            know their place leave it empty; ``config`` fills it in.
        given: What was found there.
        allowed: What would have been accepted.
        remedy: What to try, if that is known.
    """

    def __init__(self, setting: str, given: Any, allowed: str, remedy: str | None = None) -> None:
        self.setting, self.given, self.allowed, self.remedy = setting, given, allowed, remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [f"{self.setting}: got {_short(self.given)}", f"allowed {self.allowed}"]
        if self.remedy:
            parts.append(self.remedy if self.remedy.startswith("did you mean") else f"try {self.remedy}")
        return " ".join("; ".join(parts).split())

    def __reduce__(self) -> tuple:
        return type(self), (self.setting, self.given, self.allowed, self.remedy)

    def at(self, setting: str) -> "UserError":
        """The same mistake, placed at ``setting``."""
        return UserError(setting, self.given, self.allowed, self.remedy)


class Stop(Exception):  # noqa: N818
    """Training left early with its state saved. ``signal`` is None for --max-minutes."""

    def __init__(self, run: Path, signal: int | None) -> None:
        self.run, self.signal = run, signal
        super().__init__(str(run))


class NonFinite(RuntimeError):
    """A loss or gradient was not finite."""

    def __init__(self, step: int, parts: dict[str, float]) -> None:
        self.step, self.parts = step, parts
        self.checkpoint = "none"
        """The last good one, filled in where it is known."""
        listed = ", ".join(f"{name}={value:g}" for name, value in parts.items())
        super().__init__(f"step {step}: {listed}")


def unknown_name(setting: str, given: str, names: Iterable[str], where_to_look: str | None = None) -> UserError:
    """The mistake of a name that does not exist, with the nearest ones that do."""
    names = list(names)
    known = where_to_look or f"one of {len(names)} names"
    allowed = " | ".join(names) if len(names) <= 20 else known
    return UserError(setting, given, allowed, " or ".join(_nearest(given, names)) or where_to_look)


def _nearest(given: str, names: list[str]) -> list[str]:
    """At most three. A good beginning counts as well: ``deit_tini`` means ``deit_tiny_patch16_224``."""
    matcher = difflib.SequenceMatcher(b=given)

    def likeness(text: str) -> float:
        matcher.set_seq1(text)
        return matcher.ratio()

    scores = {name: max(likeness(name), likeness(name[: len(given)]) - 0.05) for name in names}
    return sorted((n for n in names if scores[n] >= 0.5), key=lambda name: -scores[name])[:3]


def _short(value: Any, limit: int = 300) -> str:
    text = value if isinstance(value, str) and value else repr(value)
    text = str(text)
    return text if len(text) <= limit else text[: limit - 3] + "..."
