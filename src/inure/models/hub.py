"""timm's published weights, from the Hugging Face hub or its cache, in the sizes of the net that wants them."""

import logging
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..settings.errors import UserError
from .resize import fit_sizes, same_shapes


def load_published(net: nn.Module, name: str, arguments: dict[str, Any], published: nn.Module) -> None:
    """Give ``net`` the weights that timm has for ``name``.

    They are fetched into a net of their own sizes and brought to those of ``net`` by ``fit_sizes``: kernels by block
    sums, positions bilinearly. Only nets with sizes that it does not know are left to timm, which resamples them its
    own way. As timm does: the classifier stays new where the weights are for another number of classes, and the
    first layer is adapted to other channels. A ``ConvStem`` stays new.

    Args:
        net: Made by timm without weights.
        name: An architecture of timm, with or without the tag of its weights.
        arguments: What ``net`` was made with.
        published: The architecture in its own sizes, with the same classes and channels; may be on the meta device.

    Raises:
        UserError: If they are not within reach, or the net's patches do not fit theirs.
    """
    own_sizes = {key: arguments[key] for key in ("num_classes", "in_chans")}
    known = same_shapes(fit_sizes(published.state_dict(), net), net)
    source = _fetched(name, own_sizes if known else arguments)
    net.load_state_dict(fit_sizes(source.state_dict(), net))


def _fetched(name: str, arguments: dict[str, Any]) -> nn.Module:
    import timm

    try:
        with _impatient_hub():
            return timm.create_model(name, pretrained=True, **arguments)
    except Exception as error:
        # Hub, cache and network fail in a dozen types of several libraries; to the user they are one thing.
        allowed = f"false, or weights within reach: neither the hub nor its cache gave them ({type(error).__name__})"
        file = "model.pretrained=false model.weights=FILE model.transfer=true"
        remedy = f"a network, HF_HOME=FOLDER that holds them, or {file}"
        raise UserError("model.pretrained", f"true for {name}", allowed, remedy) from error


@contextmanager
def _impatient_hub() -> Iterator[None]:
    """Without the hub's own messages; where its name does not even resolve, only its cache is asked."""
    from huggingface_hub import constants

    logger = logging.getLogger("huggingface_hub")
    level, offline = logger.level, constants.HF_HUB_OFFLINE
    try:
        logger.setLevel(logging.ERROR)
        # The hub would try for most of a minute.
        constants.HF_HUB_OFFLINE = offline or not _resolves(constants.ENDPOINT)
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        logger.setLevel(level)


def _resolves(address: str) -> bool:
    if urllib.request.getproxies():
        return True
    try:
        return bool(socket.getaddrinfo(urllib.parse.urlsplit(address).hostname, None))
    except OSError:
        return False
