"""``Model``: the part of a recipe that says which net."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..settings.config import Real, Settings, Whole
from ..settings.errors import UserError
from .adapters import Adapters
from .batchnorm import BatchNorm
from .heads import Head, LinearHead

_Positive = Annotated[Whole, Field(ge=1)]


class Model(Settings):
    """Which net, how large, with which weights to start from."""

    name: str = "vit_digits"
    """One of ours (``inure list models``), any name of timm, or ``FILE.py:function``; that file is run, and must
    still be there, whenever the run is loaded."""
    pretrained: bool = False
    """Start from timm's weights for this name, and normalise as they want it. Patch kernels become smaller by sums
    over blocks, position embeddings are interpolated bilinearly (``resize.py``)."""
    weights: str | None = None
    """Start from a run directory or a file of weights."""
    transfer: bool = False
    """The weights are of another task, sizes or classes: the classifier head starts anew, patch kernels and position
    embeddings are brought to the sizes of this net, and the normalisation is this recipe's. All else must fit."""
    img_size: _Positive | None = None
    """Pixels on a side; None is the data's."""
    patch_size: _Positive | None = None
    """Pixels on a side of a patch; None is the net's own."""
    window_size: _Positive | None = None
    """Patches on a side of a window, for Swin; None is the net's own."""
    stem: Literal["conv"] | None = None
    """``conv``: a ViT cuts out patches by a few convolutions of stride 2 (ConvStem), which always start anew where
    the weights have no such stem. None is the net's own."""
    num_classes: _Positive | None = None
    """Only a check: the data know their classes."""
    norm: Literal["batch", "layer", "group", "none"] | None = None
    """For ResNets and cnn_digits; None is the net's own. ``layer`` is GroupNorm with one group."""
    batchnorm: BatchNorm | None = None
    """How BatchNorm estimates the statistics of eval mode; None is as torch has it."""
    activation: Literal["relu", "silu"] | None = None
    """For wide nets; None is ReLU."""
    drop_path: Annotated[Real, Field(ge=0, lt=1)] = 0
    """Stochastic depth of the last block; it grows linearly with depth. It skips attention and MLP branches; in the
    code of Mo et al. (2022, arXiv:2210.07540) only those of attention."""
    mean: list[Real] | None = None
    """Per channel; None is what pretrained weights want, else 0.5."""
    std: list[Annotated[Real, Field(gt=0)]] | None = None
    """Per channel; None is what pretrained weights want, else 0.5."""
    head: Head = LinearHead()
    """The last layer; ``cosine`` is RoBal's."""
    adapters: Adapters | None = None
    """Parameters that exist once per domain; ``cls_token``, a list of kinds, or all settings."""

    @model_validator(mode="after")
    def _transfer_of_something(self) -> "Model":
        if self.transfer and self.weights is None:
            raise UserError("transfer", True, "false without model.weights", "model.weights=RUN")
        if self.transfer and self.pretrained:
            allowed = "false with model.pretrained: weights come from there or from model.weights"
            raise UserError("transfer", True, allowed, "model.pretrained=false")
        return self

    @model_validator(mode="after")
    def _heads_per_domain_are_linear(self) -> "Model":
        kinds = [kind for kind in ("head", "all") if self.adapters is not None and kind in self.adapters.kinds]
        if kinds and self.head.kind != "linear":
            allowed = f"linear with adapter {kinds[0]}: a mix of {self.head.kind} layers is no such layer"
            raise UserError("head.kind", self.head.kind, allowed, "other model.adapters")
        return self

    @model_validator(mode="after")
    def _clean_statistics_of_one_domain(self) -> "Model":
        if self.adapters is not None and self.batchnorm is not None and self.batchnorm.reestimate == "clean":
            allowed = "training | null with model.adapters: clean images are those of one domain"
            raise UserError("batchnorm.reestimate", "clean", allowed, "model.batchnorm.reestimate=training")
        return self
