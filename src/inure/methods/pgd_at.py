"""Adversarial training (Madry et al., 2018, arXiv:1706.06083)."""

from __future__ import annotations

from typing import Literal

from ..attacks import PGD, Attack
from ..libraries import nn
from ..models.modes import AttackMode, attack_mode
from ..settings.config import Settings
from ..types import Batch, Criterion, Images, Losses, Search


class PGDAT(Settings):
    """min E[ criterion(f(x_adv), y) ],  x_adv = argmax of the same criterion."""

    kind: Literal["pgd_at"] = "pgd_at"
    attack: Attack = PGD()
    attack_mode: AttackMode = "eval"
    """The net's mode while it is attacked. Rice et al. and Wong et al. attack in train mode, Mo et al. in eval."""

    def craft(self, model: nn.Module, batch: Batch, attack: Search, criterion: Criterion) -> Images:
        """The attack on the attack criterion, labels as they are (soft ones after mixup)."""
        with attack_mode(model, self.attack_mode):
            return attack(model, batch.x, batch.y, loss=criterion)

    def losses(self, model: nn.Module, batch: Batch, x_adv: Images, criterion: Criterion) -> Losses:
        """One forward on the adversarial images."""
        return Losses(criterion(model(x_adv), batch.y), {})
