"""Study: a plan that can be done, at one of its scales, with overrides."""

from collections.abc import Iterator, Sequence

from pydantic import model_validator

from ..evaluation.suites import SUITES
from ..recipe.shipped import find_shipped
from ..settings import config, trees
from ..settings.errors import UserError, unknown_name
from .cells import Cell, cells_of
from .checks import refuse_impossible_runs
from .settings import Plan

_DEFAULT_SCALE = "smoke"


class Study(Plan):
    """Every combination of ``base`` x ``axes`` x ``grid`` x ``seeds``, trained and evaluated."""

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
    return config.build(Study, trees.read_yaml(find_shipped("studies", name, "STUDY")))
