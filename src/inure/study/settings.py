"""What a study is: recipes crossed with named axes, grids and seeds, the same question at several scales."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from ..evaluation.suites import SUITES
from ..recipe.shipped import find_shipped
from ..settings import config
from ..settings.config import Settings, Whole
from ..settings.errors import UserError, unknown_name
from ..types import Scale
from .cells import Cell, cells_of
from .checks import refuse_impossible_runs

_DEFAULT_SCALE = "smoke"


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


class Study(Settings):
    """Every combination of ``base`` x ``axes`` x ``grid`` x ``seeds``, trained and evaluated."""

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

    @model_validator(mode="after")
    def _refuse_impossible(self) -> "Study":
        if len({*self.seeds}) != len(self.seeds):
            raise UserError("seeds", self.seeds, "seeds that differ")
        for setting, suite in [("suite", self.suite), *(("also", name) for name in self.also)]:
            if suite is not None and suite not in SUITES:
                raise unknown_name(setting, suite, SUITES)
        if self.scales and self.scale is not None:
            raise UserError("scale", self.scale, "nothing where there are scales: --scale chooses one")
        refuse_impossible_runs(self)
        for scale in self.scales:
            try:
                self.at(scale)
            except UserError as mistake:
                raise mistake.at(f"scales.{scale}.{mistake.setting}") from None
        return self

    def at(self, scale: str | None = None) -> "Study":
        """This study at one of its scales; by default at ``smoke``, where there are any.

        Raises:
            UserError: If it has no such scale.
        """
        if not self.scales:
            if scale not in (None, self.scale):
                allowed = f"{self.scale}, whose study this is" if self.scale else "nothing: this study has one form"
                raise UserError("--scale", scale, allowed)
            return self
        if scale is None and _DEFAULT_SCALE not in self.scales:
            raise UserError("--scale", "nothing", " | ".join(self.scales))
        scale = scale or _DEFAULT_SCALE
        if scale not in self.scales:
            raise unknown_name("--scale", scale, self.scales)
        tree, change = config.dump(self), config.dump(self.scales[scale])
        for name in ("axes", "grid", "before"):
            tree[name] = {**tree[name], **change[name]}
        tree["set"] = [*tree["set"], *change["set"]]
        given = {
            name: change[name]
            for name in ("base", "against", "seeds", "suite", "also", "also_examples")
            if change[name] is not None
        }
        return config.build(Study, {**tree, **given, "scales": {}, "scale": scale})

    def with_overrides(self, overrides: Sequence[str], seeds: list[int] | None = None) -> "Study":
        """More overrides for all cells.

        Args:
            overrides: ``key=value``; ``before.key=value`` is for all runs of ``before``, ``before.clean.key=value``
                for one of them. What an axis sets stays.
            seeds: To use instead.
        """
        tree = config.dump(self)
        for override in overrides:
            first, _, rest = override.partition(".")
            name, _, key = rest.partition(".")
            if first != "before":
                tree["set"].append(override)
            elif name in self.before:
                tree["before"][name]["set"].append(key)
            elif not self.before:
                raise UserError(override, "a setting of runs before", "key=value: this study has no such runs")
            else:
                for part in tree["before"].values():
                    part["set"].append(rest)
        return config.build(Study, {**tree, "seeds": self.seeds if seeds is None else seeds})

    def cells(self) -> Iterator[Cell]:
        """Every combination, in the order of the YAML, the last axis fastest."""
        return cells_of(self)


def load_study(name: str) -> Study:
    """A shipped study or a YAML file."""
    return config.build(Study, config.read_yaml(find_shipped("studies", name, "STUDY")))
