"""The attacks. To add one: write the file, add it here, add its card and its line in tests/contracts.py."""

from typing import Annotated

from pydantic import Field

from .apgd import APGD
from .ddn import DDN
from .fab import FAB
from .fgsm import FGSM
from .gradient import input_gradient
from .multi_grad import MultiGrad
from .n_fgsm import NFGSM
from .noisy_fgsm import NoisyFGSM
from .pgd import PGD
from .pyramid import Pyramid
from .square import Square
from .targeted import Targeted
from .transferred import Transferred
from .zero_grad import ZeroGrad

Attack = Annotated[FGSM | NFGSM | NoisyFGSM | ZeroGrad | MultiGrad | PGD | APGD | Pyramid, Field(discriminator="kind")]
"""What a method may search with."""
ATTACKS = (FGSM, NFGSM, NoisyFGSM, ZeroGrad, MultiGrad, PGD, APGD, Pyramid, Square, Targeted, FAB, DDN, Transferred)

__all__ = [
    "APGD",
    "ATTACKS",
    "DDN",
    "FAB",
    "FGSM",
    "NFGSM",
    "PGD",
    "Attack",
    "MultiGrad",
    "NoisyFGSM",
    "Pyramid",
    "Square",
    "Targeted",
    "Transferred",
    "ZeroGrad",
    "input_gradient",
]
