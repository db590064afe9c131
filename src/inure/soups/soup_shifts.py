"""Soups for images unlike those of training: chosen for each set by some of its images, measured on the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..averaging.adaptation import (
    choose_by_entropy,
    choose_by_shots,
    choose_per_image,
    enough_images,
    few_shot_curve,
    learn_mix,
)
from ..averaging.soup import Weights, describe_mix
from ..data import ImageSet
from ..data.named_sets import find_sets
from ..display.console import Bars
from ..evaluation import wilson
from ..evaluation.examples import Examples
from ..evaluation.intervals import Z95
from ..evaluation.sweep import Sweep, sweep
from ..libraries import Tensor, torch
from ..models import Classifier
from ..models.modes import attack_mode
from ..settings.errors import UserError
from ..threat import Linf

SHOTS = 100
"""Labelled images of each shifted set: from so many on Croce et al. (2023) find little variance."""
LABELS, SINGLE, AGAINST = "few labels", "single soup", "against"


def find_shifts(
    specs: Sequence[str], img_size: int | None, examples: int | None, shots: int, *, contrast: float = 1.0
) -> list[ImageSet]:
    """The sets that ``--shift`` names; ``SPEC@*`` is all corruptions of SPEC at all severities.

    Raises:
        UserError: If a set is not there, or too small for ``shots`` images to choose by and one to measure.
    """
    found = [part.load() for part in find_sets(specs, img_size=img_size, contrast=contrast, examples=examples)]
    for images in found:
        if shots >= len(images):
            raise UserError("--few-shot", shots, f"1 to {len(images) - 1}, fewer than the images of {images.name}")
    return found


def adapt_to_set(
    classifier: Classifier, images: ImageSet, found: Sweep, shots: int, *, seed: int, batch_size: int,
    device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    """What each way of choosing chooses by ``shots`` images of a set that was swept, and its accuracy on the others."""
    return _Choices(classifier, images, found, shots, seed, batch_size, device).summary()


def adapt_to_shifts(
    classifier: Classifier,
    sets: Sequence[ImageSet],
    mixes: Sequence[Weights],
    shots: int,
    *,
    baseline: Classifier | None,
    seed: int,
    batch_size: int,
    device: torch.device,
    bars: Bars,
) -> dict[str, Any]:
    """Every way of choosing on every set, against one soup for all sets and, if given, another net.

    The single soup is the mix with the best mean accuracy on the ``shots`` images of all sets. Gains are over the
    other images; their intervals take the images as drawn at random (and as the same in all sets, where all sets
    are as large: corruptions of one set).
    """
    every: list[_Choices] = []
    for number, images in enumerate(sets, start=1):
        net = classifier.read_as(images.readout)
        found = sweep(
            net, Examples.of(images, None), mixes, [], threat=Linf(epsilon=0.0), seed=seed,
            batch_size=batch_size, device=device,
        )  # fmt: skip
        every.append(_Choices(net, images, found, shots, seed, batch_size, device))
        bars.show("shifts", number, len(sets), unit="sets")
    means = torch.stack([part.found.clean[:, part.shots].double().mean(1) for part in every]).mean(0)
    # One labelled set for all: ties as everywhere
    single = choose_by_shots(means[:, None], mixes, torch.tensor([0]))
    for part in every:
        part.add(SINGLE, mixes[single], part.found.clean[single, part.rest])
        if baseline is not None:
            other = baseline.read_as(part.images.readout)
            part.add(AGAINST, None, _right(other, part.images, part.rest, batch_size, device))
    names = [*every[0].right]
    rivals = [name for name in names if name not in (LABELS, *_OTHER_CHOOSERS)]
    return {
        "shots": shots, "domains": list(classifier.domains), "single": describe_mix(mixes[single]),
        "sets": [part.summary() for part in every],
        "mean": {name: sum(part.accuracy(name) for part in every) / len(every) for name in names},
        "gains": {name: _gain(every, name) for name in rivals},
    }  # fmt: skip


_GRADIENT, _ENTROPY, _EACH, _HINDSIGHT = "gradient on the labels", "no labels", "per image", "best in hindsight"
_OTHER_CHOOSERS = (_GRADIENT, _ENTROPY, _EACH, _HINDSIGHT)


class _Choices:
    """One set: the images to choose by, the others, and what was chosen."""

    def __init__(
        self, classifier: Classifier, images: ImageSet, found: Sweep, shots: int, seed: int, batch_size: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.images, self.found, self.seed = images, found, seed
        order = torch.randperm(found.clean.shape[1], generator=torch.Generator().manual_seed(seed))
        self.shots, self.rest = order[:shots], order[shots:]
        self.right: dict[str, Tensor] = {}
        """(M,) bool by chooser: right on the images that are measured."""
        self._mixes: dict[str, Weights | None] = {}
        self._choose(classifier, batch_size, device)

    def add(self, name: str, mix: Weights | None, right: Tensor) -> None:
        """What a chooser chose, None for a mix for each image, and where it is right."""
        self._mixes[name], self.right[name] = mix, right

    def accuracy(self, name: str) -> float:
        """On the images that are measured."""
        return float(self.right[name].double().mean())

    def summary(self) -> dict[str, Any]:
        """For soup.json."""
        curve = few_shot_curve(self.found.clean, self.found.mixes, seed=self.seed)
        return {
            "name": self.images.name, "shots": len(self.shots), "examples": len(self.rest),
            "choices": {name: self._entry(name) for name in self.right},
            "curve": [{"shots": k, "mean": mean, "deviation": deviation} for k, mean, deviation in curve],
            "enough": enough_images(curve),
        }  # fmt: skip

    def _choose(self, classifier: Classifier, batch_size: int, device: torch.device) -> None:
        found, mixes = self.found, self.found.mixes
        for g, mix in enumerate(mixes):
            if sorted(mix.values())[:-1] == [0.0] * (len(mix) - 1):
                self.add(describe_mix(mix), mix, found.clean[g, self.rest])
        by_labels = choose_by_shots(found.clean, mixes, self.shots)
        self.add(LABELS, mixes[by_labels], found.clean[by_labels, self.rest])
        x, y = self._few(device)
        learned = learn_mix(classifier.to(device), x, y, batch_size=batch_size)
        self.add(_GRADIENT, learned, _right(classifier, self.images, self.rest, batch_size, device, learned))
        surest = choose_by_entropy(found.entropy, mixes, self.shots)
        self.add(_ENTROPY, mixes[surest], found.clean[surest, self.rest])
        each = choose_per_image(found.entropy, mixes)[self.rest]
        self.add(_EACH, None, found.clean[each, self.rest])
        best = choose_by_shots(found.clean, mixes, self.rest)
        self.add(_HINDSIGHT, mixes[best], found.clean[best, self.rest])

    def _few(self, device: torch.device) -> tuple[Tensor, Tensor]:
        return self.images.examples(self.shots, device)[:2]

    def _entry(self, name: str) -> dict[str, Any]:
        mix, right = self._mixes[name], self.right[name]
        count = int(right.sum())
        text = "-" if mix is None else describe_mix({k: round(w, 3) for k, w in mix.items()})
        return {"mix": text, "weights": mix, "accuracy": count / len(right), "interval95": wilson(count, len(right))}


def _right(
    classifier: Classifier, images: ImageSet, rows: Tensor, batch_size: int, device: torch.device,
    mix: Weights | None = None,
) -> Tensor:  # fmt: skip
    """(M,) bool in float32."""
    examples, found = Examples.of(images, None), []
    with attack_mode(classifier, "eval"), torch.no_grad():
        net = classifier.to(device)
        for chunk in rows.split(batch_size):
            logits = net(examples.images(chunk, device), mix=mix)
            found.append(examples.right(chunk, logits.argmax(1).cpu()))
    return torch.cat(found)


def _gain(every: Sequence[_Choices], rival: str) -> dict[str, Any]:
    """Mean over sets of the paired difference in accuracy, with its 95 % interval (normal approximation)."""
    differences = [part.right[LABELS].double() - part.right[rival].double() for part in every]
    mean = sum(float(d.mean()) for d in differences) / len(differences)
    if len({len(d) for d in differences}) == 1:  # the rows are the same images in every set
        variance = float(torch.stack(differences).mean(0).var()) / len(differences[0])
    else:
        variance = sum(float(d.var()) / len(d) for d in differences) / len(differences) ** 2
    half = Z95 * math.sqrt(variance) if math.isfinite(variance) else 1.0
    return {"difference": mean, "interval95": (mean - half, mean + half)}
