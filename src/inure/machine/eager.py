"""Compiled nets run as they are written."""

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any


def eagerly() -> AbstractContextManager[Any]:
    """Inside, nets run without their compiled graphs, which are for the shapes of training.

    Where nothing was compiled, the compiler is not loaded to say so.
    """
    import torch

    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
