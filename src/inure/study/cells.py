"""The combinations of a study, their names, and the runs that stand in braces in their overrides."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ..settings.errors import UserError
from .settings import Part, Plan

_PLACE = re.compile(r"\{([A-Za-z]\w*)\}")


class Cell(NamedTuple):
    """One combination, seeds apart."""

    name: str
    base: str
    overrides: list[str]
    """``{name}`` in them stands for the run of that name in ``before``."""
    levels: dict[str, Any]
    """Axis, key of the grid or ``base``: what this combination has of it."""


def cells_of(study: Plan) -> Iterator[Cell]:
    """Every combination, in the order of the YAML, the last axis fastest.

    Raises:
        UserError: If one has no base, or several.
    """
    bases = study.base if isinstance(study.base, list) else [study.base]
    for base in bases:
        for levels in itertools.product(*(axis.items() for axis in study.axes.values())):
            for values in itertools.product(*study.grid.values()):
                parts = dict(zip(study.axes, levels, strict=True))
                yield _cell(study, base, parts, dict(zip(study.grid, values, strict=True)))


def reference_of(study: Plan, cell: Cell) -> str | None:
    """The name of the cell that ``cell`` is compared with; None if it is that one itself, or nothing is compared."""
    wanted = {**cell.levels, **reference_levels(study)}
    if wanted == cell.levels:
        return None
    return next(other.name for other in cells_of(study) if other.levels == wanted)


def reference_levels(study: Plan) -> dict[str, Any]:
    """``against``, where levels of axes are text as everywhere: YAML reads ``40`` as a number."""
    return {axis: str(level) if axis in study.axes else level for axis, level in study.against.items()}


def slug(name: str) -> str:
    """A cell's name as that of a folder."""
    text = "".join(c if c.isalnum() or c in "=.-" else "_" for c in name).strip("_")
    # Long names may differ only in what is cut off
    return text if len(text) <= 120 else f"{text[:110]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def fill_places(override: str, folders: Mapping[str, Any]) -> str:
    """``model.weights={clean}`` with the folder of the run ``clean``; other braces stay as they are."""
    return _PLACE.sub(lambda found: str(folders[found[1]]) if found[1] in folders else found[0], override)


def places_in(overrides: Iterable[str]) -> list[str]:
    """The names in braces, each once."""
    return list(dict.fromkeys(name for override in overrides for name in _PLACE.findall(override)))


def _cell(study: Plan, base: str | None, parts: dict[str, tuple[str, Part]], values: dict[str, Any]) -> Cell:
    levels = {axis: level for axis, (level, _) in parts.items()}
    own = {axis: part.base for axis, (_, part) in parts.items() if part.base is not None}
    if len(own) > 1 or (own and isinstance(study.base, list)):
        given = "base in " + " and ".join([*(["base"] if isinstance(study.base, list) else []), *own])
        raise UserError("axes", given, "recipes in one place: base, or the levels of one axis")
    base = next(iter(own.values()), base)
    if base is None:
        raise UserError("base", "nothing", "a recipe, here or in every level of an axis")
    chosen = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    shown = [*_shown(study, levels), *(text.replace('"', "") for text in chosen)]
    several = isinstance(study.base, list) and len(study.base) > 1
    return Cell(
        ", ".join(([base] if several or not shown else []) + shown),
        base,
        [*study.set, *(override for _, part in parts.values() for override in part.set), *chosen],
        ({"base": base} if isinstance(study.base, list) else {}) | levels | values,
    )


def _shown(study: Plan, levels: Mapping[str, str]) -> list[str]:
    """The levels as parts of a name: with the axis where two axes have levels of that name."""
    names = [level for axis in study.axes.values() for level in axis]
    return [level if names.count(level) == 1 else f"{axis}={level}" for axis, level in levels.items()]
