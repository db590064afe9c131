"""YAML by name: shipped recipes and studies, files of the user's, what they extend, and families of recipes."""

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from ..settings import trees
from ..settings.errors import UserError, unknown_name
from ..settings.families import SUFFIX, members_of


def recipe_tree(name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """The plain data of a recipe with the recipes that it ``extends`` merged in; ``above`` are those that extend it.

    Raises:
        UserError: If there is no such recipe, or it extends itself.
    """
    path, tree = _read(name)
    key = f"{path.resolve().parent / Path(name).stem}"
    if key in above:
        chain = " -> ".join(Path(each).name for each in (*above, key))
        raise UserError("extends", chain, "recipes that do not extend themselves")
    bases = tree.pop("extends", [])
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        relative = path.parent / str(base)
        merged = trees.merge(merged, recipe_tree(str(relative) if relative.is_file() else str(base), (*above, key)))
    return trees.merge(merged, tree)


def find_shipped(folder: str, name: str, setting: str) -> Path:
    """The path of a shipped YAML file by name, or of one of the user's."""
    shipped = _root(folder) / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    if Path(name).is_file():
        return Path(name)
    if name.endswith((".yaml", ".yml")) or Path(name).is_dir():
        raise UserError(setting, name, "a YAML file that exists, or a shipped name", f"inure list {folder}")
    raise unknown_name(setting, name, [n for n, _ in shipped_names(folder)], f"a name that `inure list {folder}` shows")


def shipped_names(folder: str = "recipes") -> Iterator[tuple[str, str]]:
    """(name, about) of every shipped YAML file and family member; files that start with _ are parts of others."""
    root = _root(folder)
    for path in sorted(root.rglob("*.yaml")):
        place = path.parent.relative_to(root)
        if path.name.startswith("_"):
            continue
        found = members_of(path) if path.name.endswith(SUFFIX) else {path.stem: trees.read_yaml(path)}
        for name, tree in found.items():
            yield (place / name).as_posix(), " ".join(str(tree.get("about", "")).split())


def _read(name: str) -> tuple[Path, dict[str, Any]]:
    """The file that tells of a recipe, and the data."""
    for path in sorted((_root("recipes") / name).parent.glob(f"*{SUFFIX}")):
        members = members_of(path)
        if Path(name).name in members:
            return path, dict(members[Path(name).name])
    path = find_shipped("recipes", name, "RECIPE")
    return path, trees.read_yaml(path)


def _root(folder: str) -> Path:
    return Path(str(resources.files("inure"))) / folder
