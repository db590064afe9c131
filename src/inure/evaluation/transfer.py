"""Members of a suite that attack by way of a second net."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ..attacks import Transferred
from ..data import ImageSet
from ..libraries import nn, torch
from ..losses import cross_entropy
from ..settings.errors import UserError
from ..threat import Geometry
from .examples import Examples
from .metered import Metered
from .nets import asked_as, count_classes, in_float32
from .protocol import weights_hash
from .suites import Member

TRANSFER = "transfer-"
"""How the names of these members begin."""
_SETTING = "--transfer-from"


def transfer_members(
    sources: Mapping[str, nn.Module],
    threat: Geometry,
    examples: Examples,
    *,
    classes: int,
    attacked: str,
    device: torch.device,
) -> list[Member]:
    """One attack for each source: APGD, 100 steps on its cross-entropy, the point of highest loss (``Transferred``).

    They belong at the end of a suite: a net that lets pass what gradients of its own find, but not these, hides its
    gradients (flag ``transfer_beats_white_box``).

    Args:
        sources: By the path that they are from; the last part of it names the member, ``transfer-NAME``. They are
            asked in float32 and padded batches, in their first domain if they have several, and left as they were
            found. Their forwards are not in the counts of an evaluation.
        threat: What the adversary may do.
        examples: What will be attacked; of one image each source is asked beforehand.
        classes: Of the net that is attacked.
        attacked: The ``weights_hash`` of that net.
        device: Where to compute.

    Raises:
        UserError: For a source that takes other images, has other classes, or is the net that is attacked.
    """
    names = _names(list(sources))
    return [
        Member(names[path], _attack(path, net, threat, examples, classes, attacked, device), cross_entropy)
        for path, net in sources.items()
    ]


def _attack(
    path: str,
    net: nn.Module,
    threat: Geometry,
    examples: Examples,
    classes: int,
    attacked: str,
    device: torch.device,
) -> Transferred:
    if isinstance(examples.source, ImageSet):
        net = asked_as(net, examples.source)
    weights = weights_hash(net)
    if weights == attacked:
        raise UserError(_SETTING, path, "another net than the one that is attacked", "a run of another seed")
    source = Metered(in_float32(net, device))
    try:
        own = count_classes(source, examples, device)
    except UserError as error:
        raise UserError(_SETTING, f"{path}: {error.given}", error.allowed) from error
    if own != classes:
        raise UserError(_SETTING, f"{path} with {own} classes", f"a net of {classes} classes, as the one attacked")
    return Transferred(threat=threat, source=path, source_hash=weights).crafted_on(source)


def _names(paths: list[str]) -> dict[str, str]:
    """Path to name; of several that end alike the later ones are numbered."""
    found: dict[str, str] = {}
    for path in paths:
        stem = re.sub(r"[^\w.-]+", "-", Path(path).name.rpartition(":")[2]).strip("-") or "net"
        name, number = f"{TRANSFER}{stem}", 2
        while name in found.values():
            name, number = f"{TRANSFER}{stem}-{number}", number + 1
        found[path] = name
    return found
