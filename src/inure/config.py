"""YAML files and ``a.b=c`` overrides into typed settings, and back.

The settings classes are the whole schema: field names, types, defaults. A union of them is told apart by its
``kind`` field. Anything unknown is refused, with the nearest name that exists. No torch here: ``inure --help``
answers within a second.
"""

import copy
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from .errors import UserError, unknown_name

_MAPPING = "a mapping of settings"
_FRACTION = re.compile(r"\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*/\s*([0-9.]+)\s*")


def parse_real(value: Any) -> Any:
    """``8/255``, ``1e-3`` and ``-0.1`` as floats; anything else as it was, for pydantic to judge."""
    if isinstance(value, bool):
        raise UserError("", value, "a number such as 8/255, 1e-3 or 0.5")
    if not isinstance(value, str):
        return value
    fraction = _FRACTION.fullmatch(value)
    try:
        return float(fraction[1]) / float(fraction[2]) if fraction else float(value)
    except (ValueError, ZeroDivisionError):
        raise UserError("", value, "a number such as 8/255, 1e-3 or 0.5") from None


def _whole(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError("", value, "a whole number")
    return value


Real = Annotated[float, BeforeValidator(parse_real), Field(allow_inf_nan=False)]
"""A float that may be written as a fraction."""
Whole = Annotated[int, BeforeValidator(_whole)]
"""An int; 1.5, true and "3" are refused."""


class Settings(BaseModel):
    """A frozen record of hyperparameters that is also the object that uses them."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def __init__(self, /, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise first_mistake(type(self), fields, error) from None

    @model_validator(mode="before")
    @classmethod
    def _complete_kinds(cls, tree: Any) -> Any:
        """A mapping without a ``kind`` is laid over the field's default: ``attack: {steps: 5}`` is one attack still."""
        if not isinstance(tree, Mapping):
            return tree
        complete = dict(tree)
        for name, value in tree.items():
            default = cls.model_fields[name].default if name in cls.model_fields else None
            if isinstance(value, Mapping) and isinstance(default, Settings) and "kind" in type(default).model_fields:
                complete[name] = value if "kind" in value else merge(dump(default), value)
        return complete


S = TypeVar("S", bound=Settings)


def build(cls: type[S], tree: Mapping[str, Any]) -> S:
    """Settings of type ``cls`` from plain YAML data.

    Raises:
        UserError: At the first field that does not fit.
    """
    return cls(**{str(key): value for key, value in tree.items()})


def dump(settings: Settings) -> dict[str, Any]:
    """Plain data that ``build`` turns into equal settings."""
    return settings.model_dump(mode="json")


def to_yaml(tree: Mapping[str, Any]) -> str:
    """YAML text in the order of the fields."""
    return yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: If the file is missing, is not YAML, or holds no mapping.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(str(path), getattr(error, "strerror", None) or "no text", "a readable YAML file") from None
    except yaml.YAMLError as error:
        raise UserError(str(path), str(error), "YAML: one `key: value` a line") from None
    if not isinstance(tree, dict):
        raise UserError(str(path), type(tree).__name__, "a mapping: one `key: value` a line")
    return tree


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


def first_mistake(cls: type[BaseModel], tree: Mapping[str, Any], error: ValidationError) -> UserError:
    """The first complaint of pydantic, in our words and at the key that the user wrote."""
    details = error.errors(include_url=False)
    detail = details[0]
    where, names, kinds = _place(cls, tree, detail)
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, UserError) and cause.setting:
        key = ".".join(key for key in (where, cause.setting) if key)
        remedy = cause.remedy or _other_owner(key, cause.allowed)
        if remedy == f"{cause.setting}.kind={cause.given}":  # said by a part, which does not know its place
            in_list = f"{key.rpartition('.')[2]}: {{kind: {cause.given}}}"
            remedy = in_list if "[" in key else f"{key}.kind={cause.given}"
        return UserError(key, cause.given, cause.allowed, remedy)
    if detail["type"] == "extra_forbidden":
        name = str(detail["loc"][-1])
        mistake = unknown_name(where, name, names)
        known = " | ".join(names) if names else "no fields at all"
        remedy = f"did you mean {mistake.remedy}?" if mistake.remedy else None
        return UserError(where, "an unknown field", known, remedy)
    if detail["type"].startswith("union_tag"):
        return _wrong_kind(where, detail, kinds)
    # A field of several types fails once for each of them
    here = [d for d in details if _place(cls, tree, d).key == where]
    allowed = " or ".join(dict.fromkeys(_allowed(d) for d in here))
    given = "nothing" if detail["type"] == "missing" else detail.get("input")
    remedy = getattr(cause, "remedy", None) or _remedy(where, given, allowed, here, kinds)
    return UserError(where or cls.__name__, given, allowed, remedy)


def _remedy(where: str, given: Any, allowed: str, here: list[ErrorDetails], kinds: list[str]) -> str | None:
    """What to write instead, where that can be told from the place and from what was given."""
    types = {d["type"] for d in here}
    if kinds and ("list_type" in types or where.endswith("]")):
        name = given.get("kind") if isinstance(given, Mapping) else given
        near = unknown_name(where, str(name), kinds).remedy
        return f"{where.partition('[')[0]}=[{{kind: {near.split(' or ')[0] if near else kinds[0]}}}]"
    if allowed == _MAPPING and isinstance(given, str):
        return f"{where}.kind={given}"
    if "literal_error" not in types or not isinstance(given, str):
        return None
    near = unknown_name(where, given, allowed.split(" | ")).remedy
    return f"did you mean {near}?" if near else None


def _other_owner(key: str, allowed: str) -> str | None:
    """What has a wider choice, where ``allowed`` is the one kind that an attack or a method can have."""
    if key.endswith(".attack.threat.kind") and " " not in allowed and "[" not in key:
        return f"{key.removesuffix('threat.kind')}kind=pgd or fgsm"
    if key == "method.attack.kind" and " " not in allowed:
        return "method.kind=pgd_at"
    return None


def _wrong_kind(where: str, detail: ErrorDetails, kinds: list[str]) -> UserError:
    given = detail.get("ctx", {}).get("tag")
    if given is None:
        value = detail.get("input")
        allowed = f"a mapping with a kind: {' | '.join(kinds)}"
        remedy = _remedy(where, value, allowed, [], kinds) if isinstance(value, str) else None
        return UserError(where, value if not isinstance(value, Mapping) else "no kind", allowed, remedy)
    return unknown_name(f"{where}.kind", str(given), kinds)


def _allowed(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    if isinstance(context.get("error"), UserError):
        return context["error"].allowed
    match detail["type"]:
        case "greater_than_equal":
            return f"a number >= {context['ge']}"
        case "greater_than":
            return f"a number > {context['gt']}"
        case "less_than_equal":
            return f"a number <= {context['le']}"
        case "less_than":
            return f"a number < {context['lt']}"
        case "literal_error":
            return str(context["expected"]).replace(" or ", " | ").replace(", ", " | ").replace("'", "")
        case "missing":
            return "a value here: it has no default"
        case "list_type":
            return "a list"
        case "model_type" | "model_attributes_type" | "dict_type":
            return _MAPPING
        case "too_long":
            return f"a list of at most {context['max_length']}"
        case _:
            return detail["msg"].removeprefix("Input should be ")


class _Place(NamedTuple):
    key: str
    """Dotted, with the number of an item of a list in brackets."""
    names: list[str]
    """Fields that are known there."""
    kinds: list[str]
    """Of which something may be there, or in a list there."""


def _place(cls: type[BaseModel], tree: Any, detail: ErrorDetails) -> _Place:
    """Where an error is; tags and types of unions are left out."""
    hint: Any = cls
    loc, unknown = detail["loc"], detail["type"] == "extra_forbidden"
    key = ""
    names: list[str] = list(cls.model_fields)
    for position, part in enumerate(loc):
        models = list(_models(hint))
        fields = {name: f for m in models for name, f in m.model_fields.items()}
        tagged = [m for m in models if part in _tags(m)]
        # Between several kinds the tag comes before any field, also where a field has the name of a kind
        if tagged and (part not in fields or len(models) > 1):
            hint = tagged[0]
            names = list(tagged[0].model_fields)
            continue
        last = position == len(loc) - 1
        unknown_here = last and unknown
        if isinstance(part, int) or part in fields or unknown_here or (isinstance(tree, Mapping) and part in tree):
            key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else part
            if part in fields:
                hint = fields[str(part)].annotation
                if not last:
                    names = [n for m in _models(hint) for n in m.model_fields]
            tree = tree.get(part) if isinstance(tree, Mapping) else None
    return _Place(key, names, [kind for model in _models(hint) for kind in _tags(model)])


def _models(hint: Any) -> Iterator[type[BaseModel]]:
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        yield hint
    elif typing.get_origin(hint) is not None or isinstance(hint, types.UnionType):
        for argument in typing.get_args(hint):
            yield from _models(argument)


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("kind")
    return typing.get_args(field.annotation) if field else ()
