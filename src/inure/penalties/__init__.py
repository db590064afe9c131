"""Terms added to any method. To add one: write the file, add it to the union, add its card and contracts line."""

from .grad_align import GradAlign
from .penalty import Forwards, Outer, Penalty, attack_terms, watched, with_penalties

AnyPenalty = GradAlign
PENALTIES = (GradAlign,)

__all__ = [
    "PENALTIES",
    "AnyPenalty",
    "Forwards",
    "GradAlign",
    "Outer",
    "Penalty",
    "attack_terms",
    "watched",
    "with_penalties",
]
