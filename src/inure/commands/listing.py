"""``inure list``."""

import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from ..settings.errors import UserError, unknown_name


def list_items(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="models, attacks, methods, adapters, optimizers, joints, suites, recipes, corruptions...",
        ),
    ],
    beginning: Annotated[
        str, typer.Argument(metavar="[BEGINNING]", help="Only names that begin so: inure list recipes cifar10/mo")
    ] = "",
) -> None:
    """List what exists: one line each on stdout, name, tab, text."""
    if what not in _LISTS:
        raise UserError("WHAT", what, " | ".join(_LISTS), unknown_name("WHAT", what, _LISTS).remedy)
    shown = [(name, text) for name, text in _LISTS[what]() if name.startswith(beginning)]
    for name, text in shown:
        print(f"{name}\t{text}")
    if what == "recipes" and not beginning:
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

    return ((kind, (module.__doc__ or "").strip().splitlines()[0]) for kind, module in ADAPTERS.items())


def _suites() -> Iterable[tuple[str, str]]:
    from ..evaluation import suites
    from ..targets import shifted_sets

    return (*suites.ABOUT.items(), *shifted_sets.ABOUT.items())


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


_LISTS: dict[str, Callable[[], Iterable[tuple[str, str]]]] = {
    "models": _models,
    "attacks": _attacks,
    "methods": _methods,
    "adapters": _adapters,
    "crafting": _crafting,
    "optimizers": _optimizers,
    "joints": _joints,
    "suites": _suites,
    "recipes": _recipes,
    "corruptions": _corruptions,
    "shifts": _shifts,
    "analyses": _analyses,
    "claims": _claims,
    "studies": _studies,
}
