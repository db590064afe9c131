"""Classes as a user writes them, by name or by number, into numbers."""

from collections.abc import Sequence

from ..settings.errors import UserError


def class_numbers(chosen: Sequence[str | int], names: Sequence[str], setting: str) -> list[int]:
    """The number of each of ``chosen``, which are names, or numbers from 0.

    Raises:
        UserError: If there is no such class, or one is there twice.
    """
    numbers = []
    for one in chosen:
        if one not in names and one not in range(len(names)):
            allowed = f"names or numbers of its {len(names)} classes: {names[0]}, ... {names[-1]}"
            raise UserError(setting, one, allowed)
        numbers.append(names.index(one) if isinstance(one, str) else one)
    if len({*numbers}) != len(numbers):
        raise UserError(setting, list(chosen), "classes that differ")
    return numbers
