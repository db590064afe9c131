"""A search towards each of the likeliest wrong classes: APGD-T, and multi-targeted PGD (arXiv:1910.09338)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ..libraries import Tensor, nn, torch
from ..losses import hard, targeted_dlr
from ..models.modes import frozen
from ..noise import GeneratorNoise
from ..settings.config import Settings, Whole
from ..settings.errors import UserError
from ..threat import Linf, ThreatModel
from ..types import Crafting, Criterion, Images, Labels, Logits, Noise, PerExample
from .apgd import APGD
from .pgd import PGD
from .standing import Standing

TargetedCriterion = Callable[[Logits, Labels, Tensor], PerExample]
"""A loss of (logits, y, target), larger the nearer the prediction is to ``target``, (B,) classes."""


class Targeted(Settings):
    """One search for each of the ``targets`` likeliest wrong classes of the clean image, on who still stands.

    A search that climbs cross-entropy or a margin decides on the way which class it leads to, and may turn round
    between two; towards one class the path is straight. APGD-T (Croce and Hein, 2020, arXiv:2003.01690): ``search``
    is APGD, the loss ``targeted_dlr``. The multi-targeted attack (Gowal et al., 2019, arXiv:1910.09338): PGD and
    ``targeted_margin``.

    Note:
        The ranking is made once; the reference makes it again for every class. Gowal et al. take steps of Adam and
        all classes. Where an example is not broken, its point of the first class is returned.
    """

    kind: Literal["targeted"] = "targeted"
    threat: ThreatModel = Linf()
    """Also that of ``search``."""
    search: Annotated[APGD | PGD, Field(discriminator="kind")] = APGD(steps=100, keep="worst")
    """With ``keep`` worst."""
    targets: Annotated[Whole, Field(ge=1)] = 9
    """How many classes; where there are fewer wrong ones, all of them."""

    @model_validator(mode="after")
    def _search_is_for_verdicts_and_in_the_same_threat(self) -> Self:
        search = self.search
        if search.keep != "worst":
            raise UserError("search.keep", search.keep, "worst: the next class is for who is not misclassified")
        if search.threat not in (self.threat, Linf()):
            raise UserError("search.threat", str(search.threat), f"threat={self.threat}, or none: it takes over threat")
        fields = {**dict(search), "threat": self.threat}
        object.__setattr__(self, "search", type(search)(**fields))  # frozen; the new one is validated
        return self

    def __call__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        *,
        loss: Criterion | TargetedCriterion = targeted_dlr,
        crafting: Crafting | None = None,
        noise: Noise | None = None,
    ) -> Images:
        """As ``PGD.__call__``.

        Args:
            model: As there.
            x: As there.
            y: As there.
            loss: Of (logits, y, target), which is climbed as it is; one of (logits, y) is descended with the target
                for a label.
            crafting: As there.
            noise: As there.

        Returns:
            (B, C, H, W). Passes: one forward (times EoT), and for each class those of ``search``.
        """
        noise, broken = noise or GeneratorNoise(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        x_adv = x
        with frozen(model):
            classes = self._classes(model, x, hard(y))
            for rank, target in enumerate(classes.unbind(1)):
                left = Standing(~broken)
                if not left.size:
                    break
                search = self.search.model_copy(update={"threat": left.threat(self.threat)})
                found = search.search(
                    model,
                    *left.of(x, y),
                    loss=left.loss(toward(loss, target)),
                    crafting=crafting,
                    noise=left.noise(noise),
                    real=left.size,
                )
                keep = torch.ones_like(found.fooled) if rank == 0 else found.fooled
                x_adv = left.put(x_adv, torch.where(keep.view(-1, 1, 1, 1), found.x_adv, x_adv[left.rows]))
                broken = left.put(broken, found.fooled)
        return x_adv

    def _classes(self, model: nn.Module, x: Images, y: Tensor) -> Tensor:
        """(B, targets) the wrong classes, the likeliest first."""
        with torch.no_grad():
            logits = torch.stack([model(x) for _ in range(self.search.eot_samples)]).mean(0)
        wrong = logits.scatter(1, y[:, None], -torch.inf)
        return wrong.topk(min(self.targets, logits.shape[1] - 1), dim=1).indices


@dataclass(frozen=True)
class Toward:
    """A loss towards one class for each example."""

    loss: Callable[[Logits, Labels, Tensor], PerExample]
    target: Tensor
    """(B,)."""

    def __call__(self, logits: Logits, y: Labels) -> PerExample:
        """(logits, y) to (B,): a criterion."""
        return self.loss(logits, y, self.target)

    def of(self, rows: Tensor) -> Toward:
        """The loss of some of the examples."""
        return Toward(self.loss, self.target[rows])


def toward(loss: Criterion | TargetedCriterion, target: Tensor) -> Toward:
    """``loss`` itself if it knows of a ``target``, else minus the loss at the target."""
    if "target" in inspect.signature(loss).parameters:
        return Toward(loss, target)  # type: ignore[arg-type]
    return Toward(lambda logits, _, classes: -loss(logits, classes), target)  # type: ignore[call-arg]
