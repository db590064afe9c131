"""Transfer (Papernot et al., 2016, arXiv:1605.07277): crafted on a second net, which alone is asked."""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from ..libraries import nn, torch
from ..losses import cross_entropy
from ..models.modes import attack_mode
from ..settings.config import Settings, dump
from ..settings.errors import UserError
from ..threat import Linf, ThreatModel
from ..types import Crafting, Criterion, Images, Labels, Noise
from .apgd import APGD
from .pgd import PGD


class Transferred(Settings):
    """The point of highest loss of a second net, the source; the net that is attacked is not asked.

    Where a net gives its attacker no useful gradients, those of another net trained for the same task often lead out
    of its class all the same. An image that already fools the source is climbed further: the loss of the source is
    all that tells how far a point may carry over, and its first misclassified point is seldom far.

    Use: ``Transferred(threat=..., source="runs/other").crafted_on(net)``, then as every attack.

    Note:
        Of the source no forward is counted as one of the net that is attacked.
    """

    kind: Literal["transferred"] = "transferred"
    threat: ThreatModel = Linf()
    """Also that of ``search``."""
    search: Annotated[APGD | PGD, Field(discriminator="kind")] = APGD(steps=100)
    """With ``keep`` loss or last."""
    source: str = ""
    """Where the second net is from, for the record: the path of its run."""
    source_hash: str = ""
    """Of its weights, for the record: with it two evaluations know whether they used the same source."""
    _net: Any = PrivateAttr(default=None)  # a net: pydantic would look the type up, and load torch

    @model_validator(mode="after")
    def _search_climbs_on_and_in_the_same_threat(self) -> Self:
        search = self.search
        if search.keep == "worst":
            allowed = "loss (apgd) or last (pgd): what only just fools the source carries over least"
            raise UserError("search.keep", search.keep, allowed)
        if search.threat not in (self.threat, Linf()):
            raise UserError("search.threat", str(search.threat), f"threat={self.threat}, or none: it takes over threat")
        fields = {**dict(search), "threat": self.threat}
        object.__setattr__(self, "search", type(search)(**fields))  # frozen; the new one is validated
        return self

    def __eq__(self, other: object) -> bool:
        """By the settings: the net itself is told by its hash."""
        return isinstance(other, Transferred) and dump(self) == dump(other)

    def crafted_on(self, net: nn.Module) -> Self:
        """The same attack with ``net`` as its source.

        Args:
            net: Images in [0, 1] to logits of the same classes as those of the net to be attacked. It is asked in
                eval mode, in the precision and on the device of the images, by a copy where it is not there; its
                mode, ``requires_grad``, ``.grad`` and buffers stay as they are.
        """
        attack = self.model_copy()
        attack._net = net
        return attack

    def __call__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        *,
        loss: Criterion = cross_entropy,
        crafting: Crafting | None = None,
        noise: Noise | None = None,
    ) -> Images:
        """As ``PGD.__call__``, with the loss of the source.

        Args:
            model: The net that is attacked: not asked.
            x: As there.
            y: As there.
            loss: As there.
            crafting: Must be None: it belongs to the net that is attacked.
            noise: As there.

        Returns:
            (B, C, H, W). Passes: those of ``search`` through the source, none through ``model``.

        Raises:
            UserError: Without a source.
        """
        if crafting is not None:
            raise UserError("crafting", crafting, "none with transferred, which does not ask the net it attacks")
        source = self._source_for(x)
        # As a copy: the validator cannot see a threat that was put in its place, with radii per example
        search = self.search.model_copy(update={"threat": self.threat})
        with attack_mode(source, "eval"), torch.autocast(x.device.type, enabled=False):
            return search(source, x, y, loss=loss, noise=noise)

    def _source_for(self, x: Images) -> nn.Module:
        """The source on the device and in the precision of ``x``; a copy is made once."""
        if self._net is None:
            raise UserError("source", self.source or None, "a second net", "Transferred(...).crafted_on(net)")
        tensors = [*self._net.parameters(), *self._net.buffers()]
        if not all(t.device == x.device and (not t.is_floating_point() or t.dtype == x.dtype) for t in tensors):
            self._net = copy.deepcopy(self._net).to(device=x.device, dtype=x.dtype)
        return self._net
