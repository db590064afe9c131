"""What a study may not be: cells of one name, runs in braces that nobody trains, references that do not exist."""

import re
from collections.abc import Sequence
from typing import Any

from ..settings.errors import UserError, unknown_name
from .cells import cells_of, places_in, reference_levels, slug
from .settings import Plan

_WORD = re.compile(r"[A-Za-z]\w*")


def refuse_impossible_runs(study: Plan) -> None:
    """All mistakes that can be seen without the recipes. Of a study with scales, each scale is looked at by itself.

    Raises:
        UserError: Naming the setting to change.
    """
    if study.scales:
        return
    _refuse_unknown_runs(study)
    _refuse_clashes(study)
    _refuse_unknown_reference(study)


def _refuse_unknown_runs(study: Plan) -> None:
    known: list[str] = []
    for name, part in study.before.items():
        if not _WORD.fullmatch(name):
            raise UserError(f"before.{name}", name, "a name of letters, digits and _ that begins with a letter")
        if part.base is None:
            raise UserError(f"before.{name}.base", "nothing", "a recipe")
        _refuse_others(f"before.{name}.set", part.set, known)
        known.append(name)
    for cell in cells_of(study):
        _refuse_others("set", cell.overrides, known)


def _refuse_others(setting: str, overrides: Sequence[str], known: list[str]) -> None:
    for name in places_in(overrides):
        if name not in known:
            given = f"{{{name}}}, a run that is not in before"
            raise UserError(setting, given, " | ".join(f"{{{n}}}" for n in known) or "a run of before, listed earlier")


def _refuse_clashes(study: Plan) -> None:
    names: dict[str, str] = {}
    for cell in cells_of(study):
        folder = slug(cell.name)
        if folder in names:
            raise UserError(
                "axes", f"{names[folder]} and {cell.name}", "cells whose names differ in letters and digits"
            )
        names[folder] = cell.name


def _refuse_unknown_reference(study: Plan) -> None:
    axes: dict[str, list[Any]] = {axis: [*levels] for axis, levels in study.axes.items()} | study.grid
    if isinstance(study.base, list):
        axes["base"] = study.base
    for axis, level in reference_levels(study).items():
        if axis not in axes:
            raise unknown_name(f"against.{axis}", axis, axes)
        if level not in axes[axis]:
            raise UserError(f"against.{axis}", level, " | ".join(str(known) for known in axes[axis]))
