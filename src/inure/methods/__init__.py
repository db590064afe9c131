"""The training methods. To add one: write the file, add it here, add its card and its line in tests/contracts.py."""

from typing import Annotated

from pydantic import Field

from .co_training import CoTraining
from .fast_adv_prop import FastAdvProp
from .fgsm_pgi import FGSMPGI
from .free import Free
from .mart import MART
from .pgd_at import PGDAT
from .pgd_kl import PGDKL
from .standard import Standard
from .trades import TRADES

Method = Annotated[
    Standard | PGDAT | TRADES | MART | PGDKL | CoTraining | FastAdvProp | Free | FGSMPGI, Field(discriminator="kind")
]
METHODS = (Standard, PGDAT, TRADES, MART, PGDKL, CoTraining, FastAdvProp, Free, FGSMPGI)

__all__ = [
    "FGSMPGI",
    "MART",
    "METHODS",
    "PGDAT",
    "PGDKL",
    "TRADES",
    "CoTraining",
    "FastAdvProp",
    "Free",
    "Method",
    "Standard",
]
