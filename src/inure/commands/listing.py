"""``inure list``."""

import ast
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from ..settings.errors import UserError, unknown_name


def list_items(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help="One of the kinds; none: the kinds.")] = None,
    beginning: Annotated[
        str, typer.Argument(metavar="[BEGINNING]", help="Only names that begin so: inure list recipes cifar10/mo")
    ] = "",
) -> None:
    """List what exists: one line each on stdout, name, tab, text. Without a kind: the kinds."""
    if kind is None:
        for name, (text, _) in KINDS.items():
            print(f"{name}\t{text}")
        return
    if kind not in KINDS:
        raise UserError("KIND", kind, " | ".join(KINDS), unknown_name("KIND", kind, KINDS).remedy)
    shown = [(name, text) for name, text in KINDS[kind][1]() if name.startswith(beginning)]
    for name, text in shown:
        print(f"{name}\t{text}")
    if kind == "recipes" and not beginning:
        print(f"{len(shown)} recipes; fewer by their beginning: inure list recipes digits", file=sys.stderr)


def _models() -> Iterable[tuple[str, str]]:
    from ..models import catalogue

    return catalogue()


def _attacks() -> Iterable[tuple[str, str]]:
    from ..attacks import ATTACKS

    return _kinds(ATTACKS)


def _methods() -> Iterable[tuple[str, str]]:
    from ..methods import METHODS

    return _kinds(METHODS)


def _optimizers() -> Iterable[tuple[str, str]]:
    from ..optimizers import OPTIMIZERS

    return _kinds(OPTIMIZERS)


def _joints() -> Iterable[tuple[str, str]]:
    from ..averaging import AVERAGINGS
    from ..balance import CRITERIA
    from ..penalties import PENALTIES
    from ..perturbation import PERTURBATIONS

    return _kinds((*PERTURBATIONS, *AVERAGINGS, *CRITERIA, *PENALTIES))


def _adapters() -> Iterable[tuple[str, str]]:
    from ..models.adapters import ADAPTERS

    return ((kind, _first_line_of(f"inure.models.adapters.{file}")) for kind, file in ADAPTERS.items())


def _suites() -> Iterable[tuple[str, str]]:
    from ..evaluation import suites
    from ..targets import set_suites

    return (*suites.ABOUT.items(), *set_suites.ABOUT.items())


def _recipes() -> Iterable[tuple[str, str]]:
    from ..recipe.shipped import shipped_names

    return shipped_names("recipes")


def _studies() -> Iterable[tuple[str, str]]:
    from ..recipe.shipped import shipped_names

    return shipped_names("studies")


def _analyses() -> Iterable[tuple[str, str]]:
    from ..analyses import ANALYSES

    return _kinds(ANALYSES)


def _shifts() -> Iterable[tuple[str, str]]:
    from ..data.shifts import SHIFTS

    return SHIFTS.items()


def _corruptions() -> Iterable[tuple[str, str]]:
    from ..data.corruptions import CORRUPTIONS

    return ((name, (function.__doc__ or "").splitlines()[0]) for name, function in CORRUPTIONS.items())


def _claims() -> Iterable[tuple[str, str]]:
    from ..claims import CLAIMS

    return ((name, claim.statement) for name, claim in CLAIMS.items())


def _crafting() -> Iterable[tuple[str, str]]:
    from ..crafting import TRICKS

    return ((name, _first_line(trick)) for name, trick in TRICKS.items())


def _kinds(classes: Iterable[Any]) -> Iterable[tuple[str, str]]:
    for cls in classes:
        yield cls.model_fields["kind"].default, _first_line(cls)


def _first_line(cls: type) -> str:
    """Of the file: what it is and whose; the class itself begins with its formula."""
    return (sys.modules[cls.__module__].__doc__ or "").strip().splitlines()[0]


def _first_line_of(module: str) -> str:
    """The same of a file that would load torch if it were imported."""
    found = find_spec(module)
    assert found is not None
    assert found.origin is not None
    return (ast.get_docstring(ast.parse(Path(found.origin).read_text(encoding="utf-8"))) or "").splitlines()[0]


KINDS: dict[str, tuple[str, Callable[[], Iterable[tuple[str, str]]]]] = {
    "methods": ("what trains: method.kind", _methods),
    "attacks": ("what searches for adversarial images: method.attack.kind, suites", _attacks),
    "joints": ("perturbations, averages, criteria and penalties that join any method", _joints),
    "crafting": ("tricks while training images are crafted: crafting.NAME", _crafting),
    "adapters": ("parameters that exist once per domain: model.adapters", _adapters),
    "optimizers": ("optimizer.kind", _optimizers),
    "models": ("nets: model.name", _models),
    "recipes": ("complete settings of a run: inure train NAME", _recipes),
    "suites": ("what an evaluation attacks with: inure evaluate --suite NAME", _suites),
    "corruptions": ("SPEC@NAME:SEVERITY", _corruptions),
    "shifts": ("shifted sets in local folders: inure evaluate --suite shifts --shift NAME:DIR", _shifts),
    "studies": ("grids of recipes: inure study NAME", _studies),
    "analyses": ("looks into a run: inure analyze NAME", _analyses),
    "claims": ("what papers say, as experiments: inure reproduce NAME", _claims),
}
