"""Clean and robust accuracy of many mixes of one net, in batches that hold several mixes at once.

Every (mix, image) pair is judged as an evaluation judges an image: clean, then attacked at that very mix with the
noise that a separate evaluation would draw, in float32, by a fresh forward. Before a pair is attacked, the adversarial
images that broke the same image under neighbouring mixes are tried on it: one forward instead of an attack. What they
break may stand against the attack alone, so a robust accuracy here can be a little lower than a separate evaluation's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..libraries import Tensor, torch
from ..models import Classifier
from ..models.modes import attack_mode
from ..threat import Geometry
from ..types import Images
from .cascade import repeatable
from .examples import Examples
from .metered import Metered
from .nets import in_float32
from .suites import WHOLE_BATCH, Member
from .verdicts import Verdicts, judge

_NEIGHBOURS = 2
_KEPT = 1 << 30
"""Bytes of adversarial images that are kept to be tried on neighbours; past them pairs are attacked at once."""


@dataclass
class Sweep:
    """What a sweep found. G mixes, N images."""

    mixes: list[dict[str, float]]
    clean: Tensor
    """(G, N) bool: right on the clean image."""
    robust: Tensor
    """(G, N) bool: right, and standing to the end."""
    entropy: Tensor
    """(G, N) entropy of the prediction for the clean image, in nats."""
    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0
    borrowed: int = 0
    """Pairs that a neighbour's adversarial image broke."""
    broken: dict[tuple[int, int], Images] = field(default_factory=dict)
    """(mix, image): the adversarial image that broke it, for as many as memory was meant to hold."""


def sweep(
    classifier: Classifier,
    examples: Examples,
    mixes: Sequence[dict[str, float]],
    members: Sequence[Member],
    *,
    threat: Geometry,
    seed: int = 0,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    advance: Callable[[str, int, int, int], None] = lambda *_: None,
) -> Sweep:
    """Measure every mix on every image.

    Args:
        classifier: A net with domains.
        examples: The images.
        mixes: Weights by domain that sum to 1.
        members: The attacks; none measures clean accuracy alone.
        threat: Against which perturbations are checked.
        seed: Of the random starts.
        batch_size: Pairs sent through at once.
        device: Where to compute.
        advance: (attack, pairs done, pairs in all, pairs standing) after each batch.
    """
    begin = time.perf_counter()
    place = torch.device(device)
    net = in_float32(classifier, place)
    rows = [[mix.get(name, 0.0) for name in classifier.domains] for mix in mixes]
    weights = torch.tensor(rows, dtype=torch.float32)
    nothing = torch.zeros(len(mixes), len(examples), dtype=torch.bool)
    found = Sweep(list(mixes), nothing, nothing.clone(), nothing.float())
    pairs = _Pairs(net, examples, weights.to(place), found, threat, seed, batch_size, place)
    with attack_mode(net, "eval"), repeatable(place):
        every = torch.cartesian_prod(torch.arange(len(mixes)), torch.arange(len(examples)))
        pairs.judge(every, None, advance)
        found.robust = found.clean.clone()
        done: list[int] = []
        for wave in _waves(len(mixes)) if members else ():
            pairs.borrow(wave, done)
            for member in members:
                standing = found.robust[wave].nonzero()
                standing[:, 0] = torch.tensor(wave)[standing[:, 0]]
                pairs.judge(standing, member, advance)
            done += wave
    found.seconds = time.perf_counter() - begin
    return found


@dataclass
class _Pairs:
    """Sends (mix, image) pairs through the net and writes down what happens to them."""

    net: Any
    examples: Examples
    weights: Tensor
    found: Sweep
    threat: Geometry
    seed: int
    batch_size: int
    device: torch.device

    def judge(self, pairs: Tensor, member: Member | None, advance: Callable[[str, int, int, int], None]) -> None:
        """Judge (P, 2) pairs of a mix and an image."""
        name = member.name if member else "clean"
        done = 0
        # An image that leaves would take its mix with it
        for chunk in self._chunks(pairs, alone=member is not None and not isinstance(member.attack, WHOLE_BATCH)):
            x = self.examples.images(chunk[:, 1], self.device)
            verdicts, right = self._verdicts(chunk, x, member)
            if member is None:
                self.found.clean[chunk[:, 0], chunk[:, 1]] = right
                self.found.entropy[chunk[:, 0], chunk[:, 1]] = verdicts.entropy
            else:
                self._strike(chunk[~right], verdicts.x_adv[~right])
            done += len(chunk)
            advance(name, done, len(pairs), int((self.found.robust if member else self.found.clean).sum()))

    def borrow(self, wave: Sequence[int], done: Sequence[int]) -> None:
        """Try what broke the nearest mixes that are done."""
        for mix in wave:
            distances = (self.weights[list(done)] - self.weights[mix]).abs().sum(1) if done else torch.zeros(0)
            for near in distances.argsort(stable=True)[:_NEIGHBOURS].tolist():
                self._try_images_of(done[near], mix)

    def _try_images_of(self, near: int, mix: int) -> None:
        standing = self.found.robust[mix].nonzero().flatten().tolist()
        rows = [row for row in standing if (near, row) in self.found.broken]
        for start in range(0, len(rows), self.batch_size):
            chosen = rows[start : start + self.batch_size]
            chunk = torch.tensor([[mix, row] for row in chosen])
            x_adv = torch.stack([self.found.broken[near, row] for row in chosen])
            _, right = self._verdicts(chunk, x_adv.to(self.device), None)
            self.found.borrowed += int((~right).sum())
            self._strike(chunk[~right], x_adv[~right])

    def _chunks(self, pairs: Tensor, *, alone: bool) -> Iterator[Tensor]:
        """At most ``batch_size`` pairs; of one mix if ``alone``, or where a mix per image would go one by one."""
        groups = [pairs]
        if alone or self.net.mixture.slow_rows:
            groups = [pairs[pairs[:, 0] == mix] for mix in pairs[:, 0].unique().tolist()]
        for group in groups:
            yield from group.split(self.batch_size)

    def _verdicts(self, chunk: Tensor, x: Images, member: Member | None) -> tuple[Verdicts, Tensor]:
        mixes, rows = chunk[:, 0], chunk[:, 1]
        mode = self.weights[mixes.to(self.device)]
        same = bool((mixes == mixes[0]).all())
        model = Metered(self.net, mode[0] if same else mode)
        labels, index = self.examples.labels[rows], self.examples.index[rows]
        y = labels.to(self.device)
        verdicts = judge(model, x, y, index.to(self.device), member, threat=self.threat, seed=self.seed)
        self.found.forwards += verdicts.forwards
        self.found.backwards += verdicts.backwards
        return verdicts, self.examples.right(rows, verdicts.prediction)

    def _strike(self, chunk: Tensor, x_adv: Images) -> None:
        self.found.robust[chunk[:, 0], chunk[:, 1]] = False
        if len(x_adv) and (len(self.found.broken) + len(x_adv)) * x_adv[0].nbytes > _KEPT:
            return
        for (mix, row), image in zip(chunk.tolist(), x_adv, strict=True):
            self.found.broken[mix, row] = image


def _waves(count: int) -> list[list[int]]:
    """Every fourth mix, those halfway between, the rest: neighbours are done before what lies between them."""
    first, second = range(0, count, 4), range(2, count, 4)
    return [wave for wave in (list(first), list(second), list(range(1, count, 2))) if wave]
