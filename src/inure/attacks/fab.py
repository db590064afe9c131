"""FAB, the fast adaptive boundary attack (Croce and Hein, 2020, arXiv:1907.02044): the nearest misclassified point."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from ..libraries import Tensor, nn, torch
from ..losses import hard, margin
from ..models.modes import frozen
from ..noise import GeneratorNoise
from ..settings.config import Real, Settings, Whole
from ..settings.errors import UserError
from ..threat import Linf, ThreatModel, at_distance
from ..types import Crafting, Criterion, Images, Labels, Logits, Noise, PerExample
from .closest import Closest
from .fab_walk import Walk
from .standing import Standing

MANY_CLASSES = 100
"""More cannot be taken all at once."""


class FAB(Settings):
    """x <- (1 - alpha) (x + eta d) + alpha (x_clean + eta d_clean), then back by ``beta`` if that is misclassified.

    d and d_clean are the least moves, inside [0, 1], from the point and from the clean image to the nearest boundary
    between two classes, as the gradient at x draws it; alpha is the share of |d| in |d| + |d_clean|. No radius and no
    step size enter. FAB-T, with ``targets``: the boundary to one class at a time, so that a step takes one gradient
    and not one for each wrong class.

    Note:
        With ``stop_at_epsilon`` points beyond epsilon are not looked at (see ``Walk``): one forward a step where the
        reference makes two. Points after moving back are looked at where the gradient's forward shows them anyway.
        The final search of the paper, which AutoAttack leaves out, comes once at the end; with ``stop_at_epsilon``
        there is nothing left for it. Each further restart begins at distance min(closest found, epsilon) / 2.
    """

    kind: Literal["fab"] = "fab"
    threat: ThreatModel = Linf()
    steps: Annotated[Whole, Field(ge=1)] = 100
    restarts: Annotated[Whole, Field(ge=1)] = 1
    """Runs for each target; the first one begins at the image, the others at random."""
    targets: Annotated[Whole, Field(ge=1)] | None = None
    """FAB-T: how many of the likeliest wrong classes; where there are fewer, all. None: all at once."""
    alpha_max: Annotated[Real, Field(ge=0, le=1)] = 0.1
    eta: Annotated[Real, Field(ge=1)] = 1.05
    beta: Annotated[Real, Field(gt=0, le=1)] = 0.9
    final_steps: Annotated[Whole, Field(ge=0)] = 3
    """Steps of the final search, on the line to the clean image. None are taken with ``stop_at_epsilon``."""
    stop_at_epsilon: bool = True
    """Whether an example is done with its first misclassified point within epsilon: all that a verdict asks for."""

    def __call__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        *,
        loss: Criterion = margin,
        crafting: Crafting | None = None,
        noise: Noise | None = None,
    ) -> Images:
        """Misclassified images within epsilon.

        Args:
            model: Images in [0, 1] to logits.
            x: (B, C, H, W) in [0, 1].
            y: (B,) classes or (B, K) probabilities.
            loss: Not used: FAB follows the differences of logits.
            crafting: Must be None.
            noise: Where restarts begin; torch's generator by default.

        Returns:
            (B, C, H, W): the misclassified point if one was found within epsilon, else ``x``. Passes, of the
            examples that stand: one forward, and per target and restart ``steps`` + 1 forwards and ``steps``
            backwards (without ``stop_at_epsilon`` 2 ``steps`` forwards, and ``final_steps`` once); without ``targets``
            each step takes K - 1 backwards.

        Raises:
            UserError: Without ``targets`` for a net of more than 100 classes.
        """
        if crafting is not None:
            raise UserError("crafting", crafting, "none with fab")
        closest = Closest(self.threat, x, hard(y), stop_at_epsilon=self.stop_at_epsilon)
        self._search(model, closest, closest.limit, noise or GeneratorNoise(), verdicts=self.stop_at_epsilon)
        return closest.within_epsilon()

    def nearest(self, model: nn.Module, x: Images, y: Labels, *, noise: Noise | None = None) -> Images:
        """The closest misclassified points found, at whatever distance; ``x`` itself where there is none.

        Args:
            model: As in ``__call__``.
            x: As there.
            y: As there.
            noise: As there.

        Returns:
            (B, C, H, W). ``threat.distance`` of it to ``x`` is what success-against-epsilon curves need; at an
            image that is misclassified from the beginning it is zero. Passes: one forward, and per target and restart
            2 ``steps`` forwards and ``steps`` backwards, and ``final_steps`` forwards once.
        """
        closest = Closest(self.threat, x, hard(y), stop_at_epsilon=False)
        self._search(model, closest, torch.zeros_like(closest.distance), noise or GeneratorNoise(), verdicts=False)
        return closest.x_adv

    def _search(self, model: nn.Module, closest: Closest, enough: Tensor, noise: Noise, *, verdicts: bool) -> None:
        """All targets and restarts, each on the examples whose closest point is farther than ``enough``."""
        with frozen(model):
            with torch.no_grad():
                logits = model(closest.x)
            closest.offer(closest.x, logits)
            for target, restart in self._runs(logits, closest.y):
                start = self._start(closest, noise) if restart else closest.x
                left = Standing(closest.distance > enough)
                if not left.size:
                    break
                walk = Walk(
                    model, closest, left, target,
                    alpha_max=self.alpha_max, eta=self.eta, beta=self.beta, verdicts=verdicts,
                )  # fmt: skip
                walk.run(start[left.rows], self.steps)
            if not verdicts:
                self._final_search(model, closest, closest.margin_of(logits))

    def _final_search(self, model: nn.Module, closest: Closest, clean: PerExample) -> None:
        """Look where the margin, drawn as a line between a right point (``clean`` at first) and the wrong one, is zero.

        Not quite there but a hundredth of the way on to the wrong one, so that rounding does not decide.
        """
        left = Standing(closest.distance.isfinite() & (closest.distance > 0))
        if not left.size:
            return
        x, x_adv, low, high = left.of(closest.x, closest.x_adv, clean, closest.margin)
        right, wrong = torch.zeros_like(low), torch.ones_like(low)
        for _ in range(self.final_steps):
            root = right + (wrong - right) * (-low / (high - low).clamp_min(1e-12))
            share = root + (wrong - root) / 100
            point = x + share.view(-1, 1, 1, 1) * (x_adv - x)
            with torch.no_grad():
                logits = model(point)
            fooled, value = closest.offer(point, logits, left.rows), closest.margin_of(logits, left.rows)
            right, low = torch.where(fooled, right, share), torch.where(fooled, low, value)
            wrong, high = torch.where(fooled, share, wrong), torch.where(fooled, value, high)

    def _runs(self, logits: Logits, y: Tensor) -> Iterator[tuple[Tensor | None, int]]:
        """(target or None, number of the restart)."""
        wrong = logits.shape[1] - 1
        if self.targets is None:
            if wrong >= MANY_CLASSES:
                allowed = f"a number, for a net of {wrong + 1} classes: else each step takes {wrong} gradients"
                raise UserError("targets", None, allowed, "targets=9")
            yield from ((None, restart) for restart in range(self.restarts))
            return
        ranked = logits.scatter(1, y[:, None], -torch.inf).topk(min(self.targets, wrong), dim=1).indices
        for target in ranked.unbind(1):
            yield from ((target, restart) for restart in range(self.restarts))

    def _start(self, closest: Closest, noise: Noise) -> Images:
        """At half the distance that there is to beat, in a random direction."""
        half = torch.minimum(closest.distance, closest.limit) / 2
        return at_distance(self.threat, half, closest.x, noise).clamp(0, 1)
