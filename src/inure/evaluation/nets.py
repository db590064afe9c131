"""The net as an evaluation needs it: in float32 on one device, asked for the right classes, and known to work."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

from ..data import ImageSet
from ..libraries import nn, torch
from ..models.modes import attack_mode
from ..settings.errors import UserError
from .examples import Examples

if TYPE_CHECKING:
    from .metered import Metered

Net = TypeVar("Net", bound="nn.Module")
_FEW = 8


def prepared(
    model: nn.Module, images: object, mode: Any, device: torch.device, *, channels_last: bool = False
) -> tuple[Metered, nn.Module]:
    """The net as attacks see it, and as its weights are known by: folded for ``mode`` if it has domains.

    Args:
        model: Images in [0, 1] to logits.
        images: What it will be asked about; an ``ImageSet`` may have a readout.
        mode: A mix, for nets with domains.
        device: Where to compute.
        channels_last: Whether convolutions run in that memory format, in a copy of the net.
    """
    from ..models import Classifier
    from ..models.adapt import fold
    from .metered import Metered

    if isinstance(images, ImageSet):
        model = asked_as(model, images)
    if isinstance(model, Classifier) and model.domains:
        model, mode = fold(model, mode), None
    net = in_float32(model, device)
    if channels_last:
        net = copy.deepcopy(net).to(memory_format=torch.channels_last)
    return Metered(net, mode), model


def asked_as(model: nn.Module, images: ImageSet) -> nn.Module:
    """``model``, its outputs read as the classes of ``images``."""
    from ..models import Classifier

    if images.accepted is not None:
        allowed = "a set with one right label for each image, since verdicts are by label"
        raise UserError("--data", f"{images.name}, which has several", allowed)
    if images.readout is None:
        return model
    try:
        return (model if isinstance(model, Classifier) else Classifier(model)).read_as(images.readout)
    except UserError as error:
        raise error.at("--data") from None


def in_float32(model: Net, device: torch.device) -> Net:
    """``model`` itself if it is in float32 on ``device``, else a copy that is."""
    tensors = [*model.parameters(), *model.buffers()]
    wanted = all(t.device == device and (not t.is_floating_point() or t.dtype == torch.float32) for t in tensors)
    return model if wanted else copy.deepcopy(model).to(device=device).float()


def device_of(model: nn.Module) -> torch.device:
    """Where its parameters are."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def count_classes(model: Metered, examples: Examples, device: torch.device) -> int:
    """How many classes there are.

    By one forward of a few copies of the first image: what cannot work is said before anything is written.
    """
    from .metered import Metered

    images = examples.images(torch.zeros(_FEW, dtype=torch.long), device)
    shape = tuple(images.shape[1:])
    try:
        with attack_mode(model, "eval"), torch.no_grad():
            logits = Metered(model.net, model.mode, padding=_FEW)(images)
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError("model", f"{type(error).__name__}: {reason}", f"a net for images of {shape}") from error
    if logits.ndim != 2 or len(logits) != len(images):
        raise UserError("model", f"outputs of shape {tuple(logits.shape)}", f"logits (B, K) of images (B, *{shape})")
    low, high = int(examples.labels.min()), int(examples.labels.max())
    if low < 0 or high >= logits.shape[1]:
        allowed = f"0 to {logits.shape[1] - 1}: the net has {logits.shape[1]} outputs"
        raise UserError("labels", f"classes {low} to {high}", allowed, "the data set that the net was trained on")
    return logits.shape[1]
