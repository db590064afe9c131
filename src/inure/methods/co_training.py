"""Co-training on clean and adversarial images with parameters per domain (Rebuffi et al., 2022, arXiv:2210.04886)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ..attacks import APGD, Attack
from ..libraries import Tensor, nn, torch
from ..losses import cross_entropy, hard
from ..models.domains import in_domain
from ..models.modes import AttackMode, attack_mode
from ..settings.config import Real, Settings
from ..settings.errors import UserError
from ..types import Batch, Criterion, Images, Logits, Losses, Search
from .divergence import Divergence


class CoTraining(Settings):
    """min alpha * E[criterion(f(x; clean), y)] + (1 - alpha) * E[criterion(f(x_adv; robust), y)].

    Every image appears in both terms, and the attack goes through the domain that its images are trained in. A net
    without domains is the shared co-training that the paper's Fig. 2 shows to fail. AdvProp (Xie et al., 2020) is
    ``adapters=batchnorm`` with ``target=random``; two networks are ``adapters=all``.

    Note:
        Unknown in the readable part of the paper: alpha, the training attack and how the halves are batched. 0.5 is
        what concatenation and a mean give; APGD with 2 steps from the image is what the same authors used four
        months later (Croce et al., 2023, arXiv:2302.10164). More domains share 1 - alpha equally: our extension.
    """

    predicts: ClassVar[tuple[str, ...]] = ("adversarial", "clean")
    """What the update predicts; both are compared with labels, and a penalty takes the first where it has to choose."""

    kind: Literal["co_training"] = "co_training"
    attack: Attack = APGD(steps=2, start="zero")
    alpha: Annotated[Real, Field(ge=0, le=1)] = 0.5
    """Weight of the clean term: 1 is standard training, 0 adversarial training."""
    clean: str = "clean"
    """Domain of the clean images."""
    robust: str = "robust"
    """Domain of the images of ``attack``."""
    adversaries: dict[str, Attack] = {}
    """Further domains and their attacks: ``l2: {kind: pgd, threat: {kind: l2, epsilon: 0.5}}``."""
    climbs: Literal["criterion", "prediction"] = "criterion"
    """The attack's loss: the criterion at the label (with soft labels its gradient is that of the KL divergence), or
    the KL divergence to the clean domain's prediction of x, as TRADES has it."""
    target: Literal["none", "random"] = "none"
    """``random``: descend to a random other class, as AdvProp does. Weaker: it hides failures (the paper, note 2)."""
    statistics: Literal["joint", "separate"] = "joint"
    """BatchNorm: one forward of all images, its statistics over their union; or one forward for each domain, each
    with statistics of its own and all entering the same running ones. No difference for other norms."""
    attack_mode: AttackMode = "eval"

    @model_validator(mode="after")
    def _domains_differ(self) -> CoTraining:
        names = [self.clean, self.robust, *self.adversaries]
        if len({*names}) != len(names):
            raise UserError("robust", names, "domains that differ from each other")
        if self.climbs == "prediction" and self.target == "random":
            raise UserError("climbs", "prediction", "criterion with target=random, which descends to a label")
        for attack in (self.attack, *self.adversaries.values()):
            if self.target == "random" and (getattr(attack, "keep", "last") == "worst" or _restarts(attack) > 1):
                allowed = "last, and one restart: what does not reach its target would count as the worst"
                raise UserError("attack.keep", getattr(attack, "keep", "last"), allowed, "method.attack.keep=last")
        return self

    @property
    def ignores(self) -> tuple[str, ...]:
        """Criteria of ``balance`` that have no effect here."""
        return () if self.climbs == "criterion" and self.target == "none" else ("attack",)

    @property
    def needs_start(self) -> bool:
        """Whether the attack has to start elsewhere than at the image: the KL has no gradient there."""
        return self.climbs == "prediction"

    @property
    def domains(self) -> tuple[str, ...]:
        """Clean, robust, and the further ones."""
        return self.clean, self.robust, *self.adversaries

    @property
    def attack_weight(self) -> float:
        """What the objective multiplies the attack's loss by; a penalty's term in the attack is weighed against it."""
        return 1 - self.alpha

    def craft(self, model: nn.Module, batch: Batch, attack: Search, criterion: Criterion) -> Images:
        """(A * B, C, H, W): the images of each adversarial domain, one domain after the other."""
        self._check(model)
        crafted = []
        with attack_mode(model, self.attack_mode):
            loss, y = self._objective(model, batch, criterion)
            for name, search in [(self.robust, None), *self.adversaries.items()]:
                options: dict[str, Any] = {} if search is None else {"search": search}
                crafted.append(attack(in_domain(model, name), batch.x, y, loss=loss, **options))
        return torch.cat(crafted)

    def losses(self, model: nn.Module, batch: Batch, x_adv: Images, criterion: Criterion) -> Losses:
        """One forward of all images, or one a domain; also logs the share of attacked images that are wrong."""
        sets = [batch.x, *x_adv.split(len(batch.x))]
        all_logits = self._logits(model, sets)
        clean, *robust = (criterion(logits, batch.y) for logits in all_logits)
        adversarial = torch.stack(robust).mean(0)
        total = self.alpha * clean + (1 - self.alpha) * adversarial
        parts = {"clean": clean, **dict(zip(self.domains[1:], robust, strict=True))}
        fooled = [(logits.detach().argmax(1) != hard(batch.y)).to(total.dtype) for logits in all_logits[1:]]
        return Losses(total, {**parts, "attack_success": torch.stack(fooled).mean(0)})

    def _logits(self, model: nn.Module, sets: list[Images]) -> list[Logits]:
        names = self.domains if getattr(model, "domains", ()) else ()
        if self.statistics == "separate":
            return [model(x, mix=name) for name, x in zip(names, sets, strict=True)] if names else [*map(model, sets)]
        together = torch.cat(sets)
        logits: Tensor = model(together, mix=names) if names else model(together)
        return [*logits.chunk(len(sets))]

    def _objective(self, model: nn.Module, batch: Batch, criterion: Criterion) -> tuple[Criterion, Tensor]:
        """What the attack climbs, and the labels that it is given."""
        with torch.no_grad():
            logits = in_domain(model, self.clean)(batch.x) if self._needs_prediction else None
        if self.target == "random":
            assert logits is not None
            classes = logits.shape[1]
            shift = torch.randint(1, classes, (len(batch.x),), device=batch.x.device)
            wrong = (hard(batch.y) + shift) % classes
            return lambda z, y: -cross_entropy(z, y), wrong
        if self.climbs == "prediction":
            assert logits is not None
            return Divergence(logits.log_softmax(1)), batch.y
        return criterion, batch.y

    @property
    def _needs_prediction(self) -> bool:
        return self.climbs == "prediction" or self.target == "random"

    def _check(self, model: nn.Module) -> None:
        theirs = getattr(model, "domains", ())
        if theirs and not {*self.domains} <= {*theirs}:
            listed = " | ".join(theirs)
            raise UserError("method", f"domains {' | '.join(self.domains)}", f"those of model.adapters: {listed}")


def _restarts(attack: Any) -> int:
    return getattr(attack, "restarts", 1)
