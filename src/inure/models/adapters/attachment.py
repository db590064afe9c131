"""attach(): a net gets parameters per domain, in place."""

from torch import nn

from ...settings.errors import UserError
from . import batchnorm, bias, bottleneck, cls_token, everything, head, lora, norm, patch_embed, position, prompt
from .mixture import Mixture
from .settings import ADAPTERS, Adapters

_FILES = (batchnorm, bias, bottleneck, cls_token, everything, head, lora, norm, patch_embed, position, prompt)
_ATTACH = {file.__name__.rpartition(".")[2]: file.attach for file in _FILES}


def attach(net: nn.Module, settings: Adapters) -> Mixture:
    """Give ``net``, in place, parameters per domain; all domains start equal to it.

    Raises:
        UserError: If the net has nothing of a kind, or two kinds want the same parameter.
    """
    mixture = Mixture(settings.domains)
    mixture.repeating = [module for module in net.modules() if hasattr(module, "grad_checkpointing")]
    mixture.refuse_repeats()
    for kind in settings.kinds:
        if not _ATTACH[ADAPTERS[kind]](net, mixture, settings):
            fitting = "norm | batchnorm | patch_embed | head | bias | all"
            raise UserError("model.adapters", kind, f"kinds that {type(net).__name__} has parts for", fitting)
    # The prompt reads the projections itself: it knows no update of theirs that differs within a batch
    mixture.whole |= "prompt" in settings.kinds and bool({"lora", "bias"} & {*settings.kinds})
    return mixture
