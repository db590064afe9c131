"""Settings as plain trees: YAML files, ``a.b=c`` overrides, and how trees are merged and compared."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError

_BREAKS = "\x85\u2028\u2029"
"""Line breaks of YAML that PyYAML would write as they are and read as blanks."""


def to_yaml(tree: Mapping[str, Any]) -> str:
    """YAML text in the order of the fields."""
    readable = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)
    escape = any(mark in readable for mark in _BREAKS)
    return yaml.safe_dump(dict(tree), sort_keys=False) if escape else readable


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: If the file is missing, is not YAML, or holds no mapping.
    """
    try:
        tree = _parsed(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(str(path), getattr(error, "strerror", None) or "no text", "a readable YAML file") from None
    except yaml.YAMLError as error:
        raise UserError(str(path), str(error), "YAML: one `key: value` a line") from None
    if not isinstance(tree, dict):
        raise UserError(str(path), type(tree).__name__, "a mapping: one `key: value` a line")
    return tree


def _parsed(text: str) -> Any:
    """Ten times as fast as PyYAML's own parser, where libyaml is there; that one says what a mistake is."""
    try:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return yaml.safe_load(text)


def parse_overrides(overrides: Sequence[str]) -> list[tuple[str, Any]]:
    """``["method.beta=5"]`` as ``[("method.beta", 5)]``; values are YAML."""
    pairs = []
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not all(key.strip().split(".")):
            given = "an empty key" if separator else "no '='"
            raise UserError(override, given, "key=value", "method.attack.steps=10")
        try:
            pairs.append((key.strip(), yaml.safe_load(text) if text else ""))
        except yaml.YAMLError:
            raise UserError(key, text, "a YAML value such as 8/255, true, [1, 2] or text") from None
    return pairs


def apply_overrides(tree: Mapping[str, Any], overrides: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A copy of ``tree`` with dotted keys replaced.

    Overriding ``X.kind`` resets X to the defaults of that kind and keeps only the threat model
    (``attack.threat``). Kinds go first, outer before inner, whatever their order on the command line.
    """
    result = copy.deepcopy(dict(tree))
    kinds = sorted((o for o in overrides if o[0].endswith(".kind")), key=lambda o: o[0].count("."))
    for key, value in [*kinds, *(o for o in overrides if not o[0].endswith(".kind"))]:
        *parents, leaf = key.split(".")
        node = result
        for depth, parent in enumerate(parents, start=1):
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                raise UserError(key, ".".join(parents[:depth]) + " is not a mapping", "a key of the recipe")
        if leaf == "kind" and parents and node.get("kind") != value:
            _reset_to_kind(node, value, is_attack=parents[-1] == "attack")
        else:
            node[leaf] = value
    return result


def _reset_to_kind(node: dict[str, Any], kind: Any, *, is_attack: bool) -> None:
    attack = node if is_attack else node.get("attack")
    threat = attack.get("threat") if isinstance(attack, dict) else None
    node.clear()
    node["kind"] = kind
    if threat is not None and kind != "standard":
        node.update({"threat": threat} if is_attack else {"attack": {"threat": threat}})


def merge(base: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """``update`` laid over ``base``, mapping by mapping; a mapping of another ``kind`` replaces the old one."""
    result = dict(base)
    for key, value in update.items():
        old = result.get(key)
        same_kind = isinstance(value, Mapping) and isinstance(old, Mapping) and value.get("kind", old.get("kind"))
        if isinstance(value, Mapping) and isinstance(old, Mapping) and same_kind == old.get("kind"):
            result[key] = merge(old, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted keys at which two trees differ."""
    keys = []
    for key in sorted({*a, *b}):
        left, right = a.get(key), b.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            keys += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            keys.append(f"{prefix}{key}")
    return keys
