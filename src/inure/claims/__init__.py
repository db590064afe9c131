"""The papers' claims as experiments. To add a paper: write the file, add it here, add its card.

A claim is nets to train, a criterion that is stated before they are, a figure, and one of three verdicts.
"""

from .adapter_counts import COUNT_CLAIMS
from .adapter_soups import SOUP_CLAIMS
from .adapters import ADAPTER_CLAIMS
from .claim import Claim, Verdict
from .deat import DEAT_CLAIMS
from .lab import Lab, Scale
from .long_tail import LONG_TAIL_CLAIMS
from .memorization import MEMORIZATION_CLAIMS
from .single_step import SINGLE_STEP_CLAIMS
from .vit import VIT_CLAIMS

_ALL = (
    *ADAPTER_CLAIMS, *COUNT_CLAIMS, *SOUP_CLAIMS, *VIT_CLAIMS, *DEAT_CLAIMS, *MEMORIZATION_CLAIMS, *LONG_TAIL_CLAIMS,
    *SINGLE_STEP_CLAIMS,
)  # fmt: skip
CLAIMS: dict[str, Claim] = {claim.name: claim for claim in _ALL}

__all__ = ["CLAIMS", "Claim", "Lab", "Scale", "Verdict"]
