"""Mistakes in settings: what pydantic complains of, in our words and at the key that the user wrote."""

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from .errors import UserError, unknown_name

_MAPPING = "a mapping of settings"


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
    complaints = {d["type"] for d in here}
    if kinds and ("list_type" in complaints or where.endswith("]")):
        name = given.get("kind") if isinstance(given, Mapping) else given
        near = unknown_name(where, str(name), kinds).remedy
        return f"{where.partition('[')[0]}=[{{kind: {near.split(' or ')[0] if near else kinds[0]}}}]"
    if allowed == _MAPPING and isinstance(given, str):
        return f"{where}.kind={given}"
    if "literal_error" not in complaints or not isinstance(given, str):
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
