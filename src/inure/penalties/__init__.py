"""Terms added to any method. To add one: write the file, add it to the union, add its card and contracts line."""

from typing import Annotated

from pydantic import Field

from .grad_align import GradAlign
from .penalty import Forwards, Outer, Penalty, attack_terms, predicts, watched, with_penalties
from .tail import TAIL
from .temporal_ensembling import TemporalEnsembling

AnyPenalty = Annotated[GradAlign | TemporalEnsembling | TAIL, Field(discriminator="kind")]
PENALTIES = (GradAlign, TemporalEnsembling, TAIL)

__all__ = [
    "PENALTIES",
    "TAIL",
    "AnyPenalty",
    "Forwards",
    "GradAlign",
    "Outer",
    "Penalty",
    "TemporalEnsembling",
    "attack_terms",
    "predicts",
    "watched",
    "with_penalties",
]
