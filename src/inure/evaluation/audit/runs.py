"""The attacks of an audit, run on its subset and watched at every step."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...settings import config
from ...threat import Geometry
from ...types import Images, Labels, Logits
from ..batches import Batches, Found
from ..examples import Examples
from ..metered import Metered
from ..suites import Member
from ..verdicts import judge, predictions
from .watch import Steps, Watched


@dataclass(frozen=True)
class Run:
    """What one attack did to the subset of N examples, of which it attacked the M right ones."""

    attack: dict[str, Any]
    """Name, loss and every parameter."""
    standing: Tensor
    """(N,) bool: right on the clean image and on the one that the attack returned."""
    distance: float
    """The largest, in float64, over the threat's epsilon; over 1 where that is 0."""
    reversed: int
    """Returned images to which a second forward gave another prediction than the verdict."""
    forwards: int
    backwards: int
    seconds: float
    steps: Steps | None


@dataclass
class Subject:
    """The net and the first examples, in eval mode and frozen by the caller."""

    model: Metered
    examples: Examples
    size: int
    threat: Geometry
    seed: int
    batch_size: int
    device: torch.device
    advance: Callable[[str, int], None]
    """Called with a name and the forwards that an example took more."""
    right: Tensor = field(init=False)
    """(N,) bool on the clean image."""
    logits: Tensor = field(init=False)
    """(N, K) of the clean images."""

    def __post_init__(self) -> None:
        self.size = min(self.size, len(self.examples))
        self._batches = Batches(self.model, self.batch_size, self.device)
        every = torch.arange(self.size)
        self.logits = torch.cat(self.each(every, self._clean, "clean", 1))
        self.right = self.examples.right(every, predictions(self.logits))

    @property
    def attacked(self) -> Tensor:
        """(M,) rows: those right on the clean image."""
        return self.right.nonzero().flatten()

    def run(self, member: Member, passes: int, *, threat: Geometry | None = None, watched: bool = True) -> Run:
        """Attack the right examples, and judge and check every image that comes back.

        Args:
            member: The attack.
            passes: About so many forwards an example, for the progress.
            threat: Of this attack, where it is not the audit's.
            watched: Whether it is a gradient attack that keeps its batch together, whose steps can be recorded.
        """
        begin, threat = time.perf_counter(), threat or self.threat
        judged = self.each(self.attacked, lambda rows: self._judged(member, rows, threat, watched), member.name, passes)
        standing = torch.zeros(self.size, dtype=torch.bool)
        if judged:
            standing[self.attacked] = torch.cat([part.right for part in judged])
        furthest = max((part.distance for part in judged), default=0.0)
        loss = getattr(member.loss, "__name__", type(member.loss).__name__)
        return Run(
            attack={"name": member.name, "loss": loss, **config.dump(member.attack)},
            standing=standing,
            distance=furthest / (float(threat.epsilon) or 1.0),
            reversed=sum(part.reversed for part in judged),
            forwards=sum(part.forwards for part in judged),
            backwards=sum(part.backwards for part in judged),
            seconds=time.perf_counter() - begin,
            steps=Steps.joined([p.steps for p in judged if p.steps is not None]) if watched and judged else None,
        )

    def each(self, rows: Tensor, what: Callable[[Tensor], Found], name: str, passes: int) -> list[Found]:
        """``what`` of every batch of rows, in order."""
        found: list[Found] = []
        for chosen, part in self._batches.each(rows, what):
            found.append(part)
            self.advance(name, passes * len(chosen))
        return found

    def batch(self, rows: Tensor) -> tuple[Images, Labels, Tensor]:
        """Images, labels and index of the rows, on the device."""
        return self.examples.batch(rows, self.device)

    def _clean(self, rows: Tensor) -> Logits:
        with torch.no_grad():
            return self.model(self.batch(rows)[0]).cpu()

    def _judged(self, member: Member, rows: Tensor, threat: Geometry, watched: bool) -> "_Judged":
        x, y, index = self.batch(rows)
        attack: Any = Watched(member.attack) if watched else member.attack
        verdicts = judge(self.model, x, y, index, member._replace(attack=attack), threat=threat, seed=self.seed)
        again = judge(self.model, verdicts.x_adv.to(x), y, index, None, threat=threat, seed=self.seed)
        return _Judged(
            right=self.examples.right(rows, verdicts.prediction),
            distance=float(verdicts.distance.max()),
            reversed=int((again.prediction != verdicts.prediction).sum()),
            forwards=verdicts.forwards + again.forwards,
            backwards=verdicts.backwards,
            steps=attack.steps(len(rows)) if watched else None,
        )


@dataclass(frozen=True)
class _Judged:
    right: Tensor
    distance: float
    reversed: int
    forwards: int
    backwards: int
    steps: Steps | None
