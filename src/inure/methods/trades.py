"""TRADES (Zhang et al., 2019, arXiv:1901.08573)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..attacks import PGD, Attack
from ..libraries import nn, torch
from ..losses import kl
from ..models.modes import AttackMode, attack_mode
from ..settings.config import Real, Settings
from ..types import Batch, Criterion, Images, Losses, Search
from .divergence import Divergence
from .pairs import paired_logits


class TRADES(Settings):
    """min E[ criterion(f(x), y) + beta * KL(f(x) || f(x_adv)) ],  x_adv = argmax of the KL.

    Note:
        As in the official code the attack starts from 0.001 * N(0, 1) noise (at x itself the gradient of the KL
        is zero), the net is in eval mode while attacked, and the gradient of the loss flows through both
        arguments of the KL. The clean log-probabilities of the attack are computed once, not at every step.
        Clean and adversarial images share one forward (see ``paired_logits``).
    """

    ignores: ClassVar[tuple[str, ...]] = ("attack",)
    """Criteria of ``balance`` that have no effect here."""
    predicts: ClassVar[tuple[str, ...]] = ("clean", "adversarial")
    """What the update predicts; the first is compared with labels."""
    needs_start: ClassVar[bool] = True
    """At the image itself the KL has no gradient: the attack has to start elsewhere."""

    kind: Literal["trades"] = "trades"
    attack: Attack = PGD(start="gaussian")
    beta: Annotated[Real, Field(ge=0)] = 6.0
    attack_mode: AttackMode = "eval"

    @property
    def attack_weight(self) -> float:
        """What the objective multiplies the attack's loss by; a penalty's term in the attack is weighed against it."""
        return self.beta

    def craft(self, model: nn.Module, batch: Batch, attack: Search, criterion: Criterion) -> Images:
        """The attack on the KL to the clean prediction; labels play no part."""
        with attack_mode(model, self.attack_mode):
            with torch.no_grad():
                away = Divergence(model(batch.x).log_softmax(1))
            return attack(model, batch.x, batch.y, loss=away)

    def losses(self, model: nn.Module, batch: Batch, x_adv: Images, criterion: Criterion) -> Losses:
        """One forward of 2B images."""
        clean, adversarial = paired_logits(model, batch.x, x_adv)
        natural = criterion(clean, batch.y)
        robust = kl(adversarial, clean.log_softmax(1))
        return Losses(natural + self.beta * robust, {"natural": natural, "robust_kl": robust})
