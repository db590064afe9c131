"""MART: misclassification-aware adversarial training (Wang et al., 2020, openreview rklOg6EFwS)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..attacks import PGD, Attack
from ..libraries import nn
from ..losses import boosted_cross_entropy, kl, probability_of
from ..models.modes import AttackMode, attack_mode
from ..settings.config import Real, Settings
from ..types import Batch, Criterion, Images, Losses, Search
from .pairs import paired_logits


class MART(Settings):
    """min E[ BCE(f(x_adv), y) + beta * KL(f(x) || f(x_adv)) * (1 - f(x)_y) ].

    BCE is the boosted cross-entropy CE(f(x_adv), y) - log(1 - max_{k != y} f(x_adv)_k).

    Note:
        As in the official code the attack is PGD on plain cross-entropy from 0.001 * N(0, 1) noise in eval mode,
        the weight is 1.0000001 - f(x)_y, and it is not detached. The training criterion (label smoothing, class
        balance) does not enter the outer loss: the boosted cross-entropy is MART's own. The official code calls
        the factor lambda and uses 5 for ResNet-18 and 6 for wide nets. Clean and adversarial images share one
        forward (see ``paired_logits``).
    """

    ignores: ClassVar[tuple[str, ...]] = ("train",)
    """Criteria of ``balance`` that have no effect here."""
    predicts: ClassVar[tuple[str, ...]] = ("adversarial", "clean")
    """What the update predicts; the first is compared with labels."""

    kind: Literal["mart"] = "mart"
    attack: Attack = PGD(start="gaussian")
    beta: Annotated[Real, Field(ge=0)] = 5.0
    attack_mode: AttackMode = "eval"

    def craft(self, model: nn.Module, batch: Batch, attack: Search, criterion: Criterion) -> Images:
        """The attack on the attack criterion."""
        with attack_mode(model, self.attack_mode):
            return attack(model, batch.x, batch.y, loss=criterion)

    def losses(self, model: nn.Module, batch: Batch, x_adv: Images, criterion: Criterion) -> Losses:
        """One forward of 2B images."""
        clean, adversarial = paired_logits(model, batch.x, x_adv)
        boosted = boosted_cross_entropy(adversarial, batch.y)
        weight = 1.0000001 - probability_of(clean, batch.y)
        weighted = kl(adversarial, clean.log_softmax(1)) * weight
        return Losses(boosted + self.beta * weighted, {"boosted": boosted, "weighted_kl": weighted})
