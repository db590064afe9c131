"""PGD-AT with TRADES' term beside it: what RoBal trains with (Wu et al., 2021, arXiv:2104.02703)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..attacks import PGD, Attack
from ..libraries import nn
from ..losses import kl
from ..models.modes import AttackMode, attack_mode
from ..settings.config import Real, Settings
from ..types import Batch, Criterion, Images, Losses, Search
from .pairs import paired_logits


class PGDKL(Settings):
    """min E[ criterion(f(x_adv), y) + beta * KL(f(x) || f(x_adv)) ],  x_adv = argmax of the attack criterion.

    TRADES differs twice: its criterion is at the clean images, and its attack climbs the KL. The KL is of the net's
    own softmax, whatever scale the criterion multiplies by; its gradient flows through both arguments.

    Note:
        From RoBal's code (``add_reg_train`` with ``trades``), which adds 1e-12 to the probabilities, starts from
        U(0, epsilon), a slip for U(-epsilon, epsilon), and makes three forwards in train mode. Here clean and
        adversarial images share one (see ``paired_logits``), so that BatchNorm sees both together.
    """

    kind: Literal["pgd_kl"] = "pgd_kl"
    attack: Attack = PGD()
    beta: Annotated[Real, Field(ge=0)] = 6.0
    attack_mode: AttackMode = "eval"

    def craft(self, model: nn.Module, batch: Batch, attack: Search, criterion: Criterion) -> Images:
        """The attack on the attack criterion."""
        with attack_mode(model, self.attack_mode):
            return attack(model, batch.x, batch.y, loss=criterion)

    def losses(self, model: nn.Module, batch: Batch, x_adv: Images, criterion: Criterion) -> Losses:
        """One forward of 2B images."""
        clean, adversarial = paired_logits(model, batch.x, x_adv)
        fitted = criterion(adversarial, batch.y)
        robust = kl(adversarial, clean.log_softmax(1))
        return Losses(fitted + self.beta * robust, {"adversarial": fitted, "robust_kl": robust})
