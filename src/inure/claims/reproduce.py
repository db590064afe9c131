"""reproduce(): what ``inure reproduce`` does: the experiment of a claim, its verdict, table and figure."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from ..display.console import markdown, stderr, table
from ..machine import files
from ..settings.errors import UserError, unknown_name
from . import CLAIMS, Lab, Scale, Verdict


def reproduce(
    claim: str,
    settings: Sequence[str] = (),
    *,
    scale: str = "smoke",
    seeds: int = 2,
    examples: int | None = None,
    out: Path = Path("runs/claims"),
    quiet: bool = False,
) -> Path:
    """Test one claim, or all of a paper; see ``inure reproduce --help`` for the arguments.

    Returns:
        The folder of the claim's results, or of all.

    Raises:
        UserError: If there is no such claim or scale, a setting does not fit, or ``out`` holds other settings.
    """
    names = [name for name in CLAIMS if claim in (name, name.partition("/")[0])]
    if not names:
        raise unknown_name("CLAIM", claim, [*CLAIMS])
    if scale not in get_args(Scale):
        raise unknown_name("--scale", scale, get_args(Scale))
    folder = out / scale
    lab = Lab(folder, scale, tuple(range(seeds)), tuple(settings), examples, quiet)  # type: ignore[arg-type]
    _claim_folder(folder, settings)
    for name in names:
        verdict = CLAIMS[name].run(lab)
        _write(folder / name, name, lab, verdict)
        if not quiet:
            _show(name, verdict)
    return folder / (names[0] if len(names) == 1 else claim)


def _claim_folder(folder: Path, settings: Sequence[str]) -> None:
    """Nets of other settings must not be taken for these."""
    path = folder / "settings.json"
    if path.exists():
        theirs = json.loads(path.read_text(encoding="utf-8"))
        if theirs != [*settings]:
            given = f"{folder}, whose nets have settings {' '.join(theirs) or '(none)'}"
            raise UserError("--out", given, "a folder of the same settings, or a new one")
    files.write_json(path, [*settings])


def _write(folder: Path, name: str, lab: Lab, verdict: Verdict) -> None:
    record = {k: v for k, v in asdict(verdict).items() if k != "figure"}
    record |= {
        "claim": name, "statement": CLAIMS[name].statement, "scale": lab.scale, "seeds": list(lab.seeds),
        "settings": list(lab.overrides), "examples": lab.examples,
    }  # fmt: skip
    files.write_text(folder / "table.md", markdown(verdict.columns, verdict.rows))
    files.write_bytes(folder / "figure.png", verdict.figure)
    files.write_json(folder / "verdict.json", record)


def _show(name: str, verdict: Verdict) -> None:
    console = stderr()
    console.print(table(f"{name}: {CLAIMS[name].statement}", verdict.columns, verdict.rows))
    for label, text in (("criterion", verdict.criterion), ("found", verdict.reason), ("verdict", verdict.answer)):
        console.print(f"{label}: {text}", markup=False, soft_wrap=True)
