"""What a study says: recipes crossed with named axes, grids and seeds, the same question at several scales."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from ..settings.config import Settings, Whole
from ..settings.errors import UserError
from ..types import Scale


class Part(Settings):
    """Overrides under one name, and the recipe they are for where it is not the study's."""

    base: str | None = None
    set: list[str] = []


def _as_part(value: Any) -> Any:
    """A list of overrides is the short form."""
    return {"set": value} if isinstance(value, list) else {} if value is None else value


def _as_name(value: Any) -> Any:
    """YAML reads ``40`` as a number, which names well enough, and ``on`` as true, which does not."""
    if isinstance(value, bool):
        raise UserError("", value, "a name in quotes: YAML takes on, off, yes and no for true and false", '"on"')
    return str(value) if isinstance(value, int | float) else value


_Name = Annotated[str, BeforeValidator(_as_name)]
_Level = Annotated[Part, BeforeValidator(_as_part)]
_Grid = dict[str, Annotated[list[Any], Field(min_length=1)]]
_Axes = dict[str, Annotated[dict[_Name, _Level], Field(min_length=1)]]
_Bases = str | Annotated[list[str], Field(min_length=1)]
_Seeds = Annotated[list[Whole], Field(min_length=1)]


class Change(Settings):
    """What is different at one scale: ``set`` is added to the study's, everything else of the same name replaces."""

    base: _Bases | None = None
    set: list[str] = []
    axes: _Axes = {}
    grid: _Grid = {}
    before: dict[str, Part] = {}
    against: dict[str, Any] | None = None
    seeds: _Seeds | None = None
    suite: str | None = None
    also: list[str] | None = None
    also_examples: Annotated[Whole, Field(ge=1)] | None = None


class Plan(Settings):
    """What a study says; whether it can be done is for ``Study`` to say."""

    about: str = ""
    base: _Bases | None = None
    """A recipe, or several to compare; none where every level of an axis names its own."""
    set: list[str] = []
    """Overrides for all runs."""
    axes: _Axes = {}
    """Axis: level: overrides, or ``{base: RECIPE, set: [...]}``. A level wins over ``set``, a later axis over an
    earlier one."""
    grid: _Grid = {}
    """Dotted key: the values to cross. They win over all else."""
    before: dict[str, Part] = {}
    """Runs that are trained first, once a seed. ``{name}`` in an override, as in ``model.weights={clean}``, is the
    folder of the one with the same seed; they see neither ``set`` nor axes, and earlier ones of themselves."""
    against: dict[str, Any] = {}
    """Axis, key of the grid or ``base``: level. Each cell is compared with the one that has these and is else equal."""
    seeds: _Seeds = [0]
    suite: str | None = None
    """None: the recipes' own evaluation.suite."""
    also: list[str] = []
    """Further suites that each run is evaluated with; differences and figure are those of ``suite``."""
    also_examples: Annotated[Whole, Field(ge=1)] | None = None
    """Test images for these, the first so many; None: all."""
    scales: dict[Scale, Change] = {}
    """The same question for minutes, hours and days of computing; ``at`` chooses one."""
    scale: Scale | None = None
    """Which scale this is; written by ``at``."""
