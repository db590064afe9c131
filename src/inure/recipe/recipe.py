"""Recipe: slots that go together, from Python or by name."""

from collections.abc import Sequence

from pydantic import model_validator

from ..settings import config, trees
from .refusals import refuse_impossible
from .shipped import recipe_tree
from .slots import Slots


class Recipe(Slots):
    """Every setting of a run. What cannot work together is refused when it is made."""

    @model_validator(mode="after")
    def _refuse_impossible(self) -> "Recipe":
        refuse_impossible(self)
        return self


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A shipped recipe (``digits/pgd_at``) or a YAML file, with ``key=value`` overrides.

    Raises:
        UserError: If there is no such recipe, or a setting does not fit.
    """
    return config.build(Recipe, trees.apply_overrides(recipe_tree(name), trees.parse_overrides(overrides)))
