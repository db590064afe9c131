"""Square (Andriushchenko et al., 2020, arXiv:1912.00049): random search with windows, without any gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from ..libraries import Tensor, nn, torch
from ..losses import hard, margin
from ..noise import GeneratorNoise
from ..settings.config import Real, Settings, Whole
from ..settings.errors import UserError
from ..threat import Linf, ThreatModel
from ..types import Crafting, Criterion, Images, Labels, Logits, Noise, PerExample
from .square_patches import first_guess, numbers_of, propose, side_of
from .standing import Standing

_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_FULL_LENGTH = 10_000
_BLOCK = 64
"""Proposals whose random numbers are drawn at once: the noise costs as much for one number as for many."""
_EVERY = 16
"""Queries between two looks at who still stands; in the first ones, where most examples fall, it looks each time."""


def unbounded_margin(logits: Logits, y: Labels) -> PerExample:
    """The largest wrong logit minus the label's: ``margin`` without its bound, what Square climbs by default."""
    return margin(logits, y, kappa=float("inf"))


class Square(Settings):
    """Try a window at a random place; keep it where the loss rises.

    Linf: the window is set to +epsilon or -epsilon, one sign a channel. L2: the mass of a second window moves to the
    first one, as bumps, and the whole is scaled to the radius. L1: the same with sums for Euclidean norms and a
    projection for the scaling (Croce and Hein, 2021, arXiv:2103.01208). The windows shrink: they cover the share
    ``window_share`` of the image. An example that is misclassified is finished, and leaves.

    Note:
        Where the code of AutoAttack draws one place, one orientation of the bumps and under Linf one sign for the
        whole batch, every example has its own here, so that it does not depend on the batch. All places of the image
        are drawn, there all but the last row and column. Images need not be square: the tiles of the first bumps
        are a fifth of the shorter side, and centred. The start counts as a query, and the clean forward with which
        that code begins is the caller's affair.
    """

    kind: Literal["square"] = "square"
    threat: ThreatModel = Linf()
    queries: Annotated[Whole, Field(ge=1)] = 5000
    """Forwards per restart and example, the one at the start included."""
    p_init: Annotated[Real, Field(gt=0, le=1)] = 0.8
    """Share of the image that the first windows cover."""
    restarts: Annotated[Whole, Field(ge=1)] = 1
    """Independent runs, each on the examples that still stand."""
    rescale_schedule: bool = False
    """Whether the windows shrink with the share of ``queries`` that is used, as if there were 10000 in all."""

    def __call__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        *,
        loss: Criterion = unbounded_margin,
        crafting: Crafting | None = None,
        noise: Noise | None = None,
    ) -> Images:
        """Images in the threat model around ``x`` that are misclassified, or else of high ``loss``.

        Args:
            model: Images in [0, 1] to logits; never differentiated.
            x: (B, C, H, W) in [0, 1].
            y: (B,) classes or (B, K) probabilities.
            loss: (logits, y) to (B,); what is climbed. By default the difference of the largest wrong logit to the
                label's, without a bound.
            crafting: Must be None: there are no gradients on which it could act.
            noise: Where places and signs come from; torch's generator by default.

        Returns:
            (B, C, H, W): the first misclassified point found, else the one of highest loss. Passes: ``queries``
            forwards a restart of the examples that stand, no backward.
        """
        if crafting is not None:
            raise UserError("crafting", crafting, "none with square, which computes no gradients")
        noise, y = noise or GeneratorNoise(), y.detach()
        nobody = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        found = _Found(x, torch.full_like(nobody, -torch.inf, dtype=x.dtype), nobody)
        with torch.no_grad():
            for _ in range(self.restarts):
                again = self._restart(model, x, y, loss, noise, found.fooled)
                found = found.offered(again.x_adv, again.loss, again.fooled)
        return found.x_adv

    def _restart(self, model: nn.Module, x: Images, y: Labels, loss: Criterion, noise: Noise, fooled: Tensor) -> _Found:
        """One run of the rows that are not ``fooled``; in the others nothing of use comes back.

        Every row's numbers are drawn, whoever stands: they depend on nobody else.
        """
        found = _Found(first_guess(self.threat, x, noise), torch.full_like(fooled, -torch.inf, dtype=x.dtype), fooled)
        drawn = _drawn(noise, x, self.queries - 1, numbers_of(self.threat, x.shape[1]))
        done, left = 0, Standing(~fooled)
        while left.size and done < self.queries:
            part, done = self._climb(model, *left.of(x, y), left.loss(loss), left, found.of(left), drawn, done)
            found = found.put(left, part)
            left = Standing(~found.fooled)
        return found

    def _climb(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        loss: Criterion,
        left: Standing,
        found: _Found,
        drawn: Iterator[Tensor],
        done: int,
    ) -> tuple[_Found, int]:
        """Queries from number ``done`` on, until they are used up or examples have fallen."""
        threat = left.threat(self.threat)
        for k in range(done, self.queries):
            candidate = found.x_adv
            if k:
                side = side_of(threat, self.window_share(k - 1), *x.shape[2:])
                candidate = propose(threat, x, found.x_adv, side, next(drawn)[left.rows])
            found = found.offered(candidate, *_look(model, candidate, y, loss, found.loss))
            if k < _EVERY or k % _EVERY == 0:
                still = Standing(~found.fooled, left.size)
                if not still.size or still.smaller:
                    return found, k + 1
        return found, self.queries

    def window_share(self, proposals: int) -> float:
        """The share of the image that a window covers after so many proposals: ``p_init``, halved nine times."""
        if self.rescale_schedule:
            proposals = int(proposals / self.queries * _FULL_LENGTH)
        return self.p_init / 2 ** sum(proposals > threshold for threshold in _HALVED_AFTER)


class _Found(NamedTuple):
    """The best point of each example, its loss, and whether it is misclassified, after which it stays."""

    x_adv: Images
    loss: Tensor
    fooled: Tensor

    def offered(self, x_adv: Images, loss: Tensor, fooled: Tensor) -> _Found:
        """With the points that are better. Losses that are NaN never are."""
        better = ~self.fooled & (fooled | (loss > self.loss))
        return _Found(
            torch.where(better.view(-1, 1, 1, 1), x_adv, self.x_adv),
            torch.where(better, loss.to(self.loss), self.loss),
            self.fooled | fooled,
        )

    def of(self, left: Standing) -> _Found:
        """The rows that stand."""
        return _Found(*left.of(*self))

    def put(self, left: Standing, part: _Found) -> _Found:
        """With the rows that stood replaced by ``part``."""
        return _Found(*(left.put(old, new) for old, new in zip(self, part, strict=True)))


def _look(model: nn.Module, x: Images, y: Labels, loss: Criterion, best: PerExample) -> tuple[PerExample, Tensor]:
    """The loss of each point (B,), and whether it is misclassified.

    Where the net runs in low precision (it offers ``exact`` then, see ``evaluation.metered``), that forward only sorts
    out the points that are worse than ``best`` by more than the measured error (``slack``); a second one in float32
    decides about the others.
    """
    logits, classes = model(x), hard(y)
    values, fooled = loss(logits, y), logits.argmax(1) != classes
    exact = getattr(model, "exact", None)
    if exact is not None:
        off = getattr(model, "slack", torch.inf) * logits.abs().amax(1)
        rows = (fooled | ~(values <= best - off)).nonzero().flatten()
        values, fooled = torch.full_like(values, -torch.inf), torch.zeros_like(fooled)
        if len(rows):
            logits = exact(x[rows])
            values[rows], fooled[rows] = loss(logits, y[rows]), logits.argmax(1) != classes[rows]
    return values, fooled


def _drawn(noise: Noise, x: Images, proposals: int, width: int) -> Iterator[Tensor]:
    """(B, width) numbers for each proposal, uniform on [0, 1)."""
    for first in range(0, proposals, _BLOCK):
        yield from noise.uniform(x.new_empty(len(x), min(_BLOCK, proposals - first), width)).unbind(1)
