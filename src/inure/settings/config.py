"""Trees into typed settings, and back (``trees.py``: YAML and overrides into trees).

The settings classes are the whole schema: field names, types, defaults. A union of them is told apart by its
``kind`` field. Anything unknown is refused, with the nearest name that exists. No torch here: ``inure --help``
answers within a second.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from .errors import UserError
from .mistakes import first_mistake
from .trees import merge

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
