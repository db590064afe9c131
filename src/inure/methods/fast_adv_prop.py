"""Fast AdvProp (Mei et al., 2022, arXiv:2204.09838): co-training at the price of 1.2 standard steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from ..attacks import FGSM
from ..libraries import Tensor, nn, torch
from ..models.domains import in_domain
from ..models.modes import attack_mode
from ..settings.config import Real, Settings
from ..settings.errors import UserError
from ..steps import fast_adv_prop_step
from ..threat import Linf
from ..types import Batch, Criterion, Images, Losses, Search

_Weight = Annotated[Real, Field(gt=0)]


class FastAdvProp(Settings):
    """One image in five is attacked, by one step whose backward pass trains too; the others stay clean.

    min over w of the weighted mean of ``clean_weight`` L(f(x; clean)) over the clean part of the batch, and of
    ``attack_weight`` L(f(x; robust)) and ``adversarial_weight`` L(f(x_adv; robust)) over the part that is attacked.
    Training goes through ``step``, which says how the gradients are shared and rescaled. ``craft`` and ``losses`` are
    the same objective in passes of their own, for BatchNorm statistics.

    Note:
        Read in the official code: the ratio 4 : 1, the weights, epsilon and step 1/255, that the attacked images take
        the robust domain in train mode in both passes, and the rescaling. Its attack starts from noise in 42 % of the
        steps (a normal draw above 0.2) and at the image in the others; here ``attack.start`` says. It mixes
        (mixup, CutMix) the clean part alone, here the whole batch is mixed before it is divided. It shuffles attacked
        images between devices. Not verified: whether the paper's text differs from its code.
    """

    ignores: ClassVar[tuple[str, ...]] = ("attack",)
    """The attack climbs what is minimised: it is the same pass."""
    refuses: ClassVar[tuple[str, ...]] = ("crafting", "penalties", "perturbation")
    """Joints that ``step`` has no place for."""
    refuses_of_balance: ClassVar[tuple[str, ...]] = ("epsilon", "counter")
    """Parts of ``balance`` that ``step`` has no place for."""

    kind: Literal["fast_adv_prop"] = "fast_adv_prop"
    attack: FGSM = FGSM(threat=Linf(epsilon=1 / 255))
    share: Annotated[Real, Field(ge=0, lt=1)] = 0.2
    """Of the batch that is attacked: its last images. At least two of each part, which overlap below four images."""
    clean_weight: _Weight = 1.0
    attack_weight: _Weight = 0.5
    """Of the pass from which the attack takes its gradient."""
    adversarial_weight: _Weight = 0.5
    clean: str = "clean"
    """Domain of the clean part."""
    robust: str = "robust"
    """Domain of the attacked part, in both of its passes."""

    @model_validator(mode="after")
    def _domains_differ(self) -> FastAdvProp:
        if self.clean == self.robust:
            raise UserError("robust", self.robust, f"another domain than clean: {self.clean}")
        return self

    @property
    def step(self) -> Callable[..., dict[str, Tensor]]:
        """What is done with a batch instead of ``train_step``."""
        return fast_adv_prop_step

    @property
    def domains(self) -> tuple[str, ...]:
        """Clean, robust."""
        return self.clean, self.robust

    def split(self, batch: Batch) -> tuple[Batch, Batch]:
        """The clean and the attacked part; the second is empty at ``share`` 0."""
        size = len(batch.x)
        attacked = max(2, round(self.share * size)) if self.share else 0
        clean = max(2, size - attacked)
        return _rows(batch, slice(clean)), _rows(batch, slice(max(0, size - attacked), size))

    def counts(self, clean: int, attacked: int) -> dict[str, float]:
        """The sum of the weights of each domain's images, for parts of so many."""
        weight = self.attack_weight + self.adversarial_weight
        return {self.clean: self.clean_weight * clean, self.robust: weight * attacked}

    def craft(self, model: nn.Module, batch: Batch, attack: Search, criterion: Criterion) -> Images:
        """The attacked part, attacked through the robust domain with a gradient of its own."""
        _, attacked = self.split(batch)
        if not len(attacked.x):
            return attacked.x
        with attack_mode(model, "train_frozen_stats"):
            return attack(in_domain(model, self.robust), attacked.x, attacked.y, loss=criterion)

    def losses(self, model: nn.Module, batch: Batch, x_adv: Images, criterion: Criterion) -> Losses:
        """The three forwards; ``total`` has the clean part first, and its mean is the weighted mean over all passes."""
        clean, attacked = self.split(batch)
        parts = {"clean": criterion(in_domain(model, self.clean)(clean.x), clean.y)}
        total = self.clean_weight * parts["clean"]
        if len(x_adv):
            robust = in_domain(model, self.robust)
            parts["attack"] = criterion(robust(attacked.x), attacked.y)
            parts["adversarial"] = criterion(robust(x_adv), attacked.y)
            both = self.attack_weight * parts["attack"] + self.adversarial_weight * parts["adversarial"]
            total = torch.cat([total, both])
        counts = self.counts(len(clean.x), len(attacked.x))
        return Losses(total * (len(total) / sum(counts.values())), parts)


def _rows(batch: Batch, rows: slice) -> Batch:
    return replace(batch, x=batch.x[rows], y=batch.y[rows], index=batch.index[rows])
