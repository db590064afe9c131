"""Projected gradient descent (Madry et al., 2018, arXiv:1706.06083)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..libraries import nn, torch
from ..losses import cross_entropy
from ..models.modes import frozen
from ..noise import GeneratorNoise
from ..settings.config import Real, Settings, Whole
from ..threat import Linf, ThreatModel
from ..types import Crafting, Criterion, Images, Labels, Noise
from .gradient import input_gradient, is_blind
from .worst import Worst


class PGD(Settings):
    """x_adv <- project(ascend(x_adv, grad of the loss at x_adv)), ``steps`` times."""

    kind: Literal["pgd"] = "pgd"
    threat: ThreatModel = Linf()
    steps: Annotated[Whole, Field(ge=1)] = 10
    step_size: Annotated[Real, Field(ge=0)] | None = None
    """In the units of epsilon. None: 2.5 * epsilon / steps, which is 2/255 for 10 steps at 8/255."""
    start: Literal["zero", "uniform", "gaussian"] = "uniform"
    """``gaussian``: x + start_std * N(0, 1) (TRADES, MART). It is too weak a start for evaluation."""
    start_std: Annotated[Real, Field(ge=0)] = 1e-3
    restarts: Annotated[Whole, Field(ge=1)] = 1
    """Independent runs; each example keeps its worst."""
    eot_samples: Annotated[Whole, Field(ge=1)] = 1
    """Forwards whose gradients are averaged, for nets that draw at random (EoT, Athalye et al., 2018)."""
    keep: Literal["last", "worst"] = "last"
    """``worst``: of all iterates, a misclassified one if there is one, then the one of highest loss."""

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
        """Images in the threat model around ``x`` that raise ``loss``.

        Args:
            model: Images in [0, 1] to logits. Its mode, ``requires_grad``, ``.grad`` and (in eval mode) buffers
                stay as they are.
            x: (B, C, H, W) in [0, 1].
            y: (B,) classes or (B, K) probabilities.
            loss: (logits, y) to (B,); what is climbed.
            crafting: A trick that acts on the iterate before each gradient. Steps that it calls blind are skipped.
            noise: Where random starts come from; torch's generator by default.

        Returns:
            (B, C, H, W), detached. Passes: ``steps`` forwards and backwards a restart, each times
            ``eot_samples``, and one forward more with ``keep="worst"`` or several restarts.
        """
        if self.restarts > 1 or self.keep == "worst":
            return self.search(model, x, y, loss=loss, crafting=crafting, noise=noise).x_adv
        with frozen(model):
            return self._climb(model, x, y, loss, crafting, noise or GeneratorNoise(), None)

    def search(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        *,
        loss: Criterion = cross_entropy,
        crafting: Crafting | None = None,
        noise: Noise | None = None,
        real: int | None = None,
    ) -> Worst:
        """As ``__call__``; also says who is misclassified. ``real`` is for searches that leave who is: here unused."""
        worst, noise = Worst(x, y), noise or GeneratorNoise()
        with frozen(model):
            for _ in range(self.restarts):
                x_adv = self._climb(model, x, y, loss, crafting, noise, worst if self.keep == "worst" else None)
                with torch.no_grad():
                    logits = model(x_adv)
                    worst.offer(x_adv, loss(logits, y), logits)
        return worst

    def _climb(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        loss: Criterion,
        crafting: Crafting | None,
        noise: Noise,
        worst: Worst | None,
    ) -> Images:
        step_size = 2.5 * self.threat.epsilon / self.steps if self.step_size is None else self.step_size
        x_adv = self._start(x, noise)
        for k in range(self.steps):
            if crafting is not None:
                x_adv = crafting.step(k, x_adv, x)
            blind = is_blind(crafting)
            if blind and worst is None:
                continue
            grad, values, logits = input_gradient(model, x_adv, y, loss, self.eot_samples, backward=not blind)
            if worst is not None:
                worst.offer(x_adv, values, logits)
            x_adv = self.threat.project(self.threat.ascend(x_adv, grad, step_size), x)
        return x_adv.detach()

    def _start(self, x: Images, noise: Noise) -> Images:
        if self.start == "uniform":
            return self.threat.random_start(x, noise)
        if self.start == "gaussian":
            return self.threat.project(x + self.start_std * noise.normal(x), x)
        return x.clone()
