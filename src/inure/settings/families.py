"""Families: many recipes that differ along a few axes, written once."""

import functools
import itertools
from pathlib import Path
from typing import Any

from . import trees

SUFFIX = ".family.yaml"
_OWN = ("like", "name", "about", "axes", "extends")


@functools.cache
def members_of(path: Path) -> dict[str, dict[str, Any]]:
    """Name and plain data of every recipe of a family.

    A family is YAML: ``name`` and ``about``, in which ``{axis}`` stands for a level and for what it says ``about``
    itself; ``axes``, each a mapping from its levels to fields of a recipe; ``extends`` and fields of a recipe for all
    members. A level may extend recipes too: they count after the family's, and later axes after earlier ones.
    ``like`` another family (its file, beside or above this one) starts from that; a level set to null is left out.
    Each file is read once, so change nothing in what comes back.
    """
    family = _tree(path)
    members = {}
    for levels in itertools.product(*(axis.items() for axis in family["axes"].values())):
        chosen = dict(zip(family["axes"], levels, strict=True))
        name = family["name"].format(**{axis: level for axis, (level, _) in chosen.items()})
        about = family["about"].format(**{axis: fields.get("about", level) for axis, (level, fields) in chosen.items()})
        parts = [family, *(fields for _, fields in levels)]
        tree: dict[str, Any] = {}
        for part in parts:
            tree = trees.merge(tree, {key: value for key, value in part.items() if key not in _OWN})
        members[name] = {"about": about, "extends": [base for part in parts for base in _bases(part)], **tree}
    return members


def _tree(path: Path) -> dict[str, Any]:
    tree = trees.read_yaml(path)
    if "like" in tree:
        tree = trees.merge(_tree(path.parent / tree["like"]), tree)
    axes = {axis: {name: f for name, f in levels.items() if f is not None} for axis, levels in tree["axes"].items()}
    return {**tree, "axes": axes}


def _bases(part: dict[str, Any]) -> list[str]:
    bases = part.get("extends", [])
    return [bases] if isinstance(bases, str) else bases
