"""Wrong labels on purpose, in the training images only: corrupted once, by a seed, and kept with the run.

Validation and test labels stay as they are. The noisy label of an image is a function of (seed, its row in the source,
its class), so that two runs that share images share their wrong labels, whatever else they leave out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..libraries import np, torch
from ..settings.config import Real, Settings, Whole
from ..settings.errors import UserError
from .class_numbers import class_numbers
from .image_set import ImageSet
from .long_tailed import Seed

_SUM = 1e-6


class NoiseSettings(Settings):
    """The fields that all kinds share. P[i, j] is the probability that an image of class i is labelled j."""

    rate: Annotated[Real, Field(ge=0, le=1)] = 0.2
    """How much of P is noise."""
    seed: Seed = 0


class Symmetric(NoiseSettings):
    """P = (rate / K) 11^T + (1 - rate) I: the new label may be the true one. ``rate=1``: random labels.

    The protocol of Dong et al., Exploring memorization in adversarial training, 2022, arXiv:2106.01606; of K classes
    a share rate (K - 1) / K is really wrong. Its code draws from a generator without a seed; this one has one.
    """

    kind: Literal["symmetric"] = "symmetric"

    def transition(self, names: Sequence[str]) -> np.ndarray:
        """P, (K, K)."""
        classes = len(names)
        return np.full((classes, classes), self.rate / classes) + (1 - self.rate) * np.eye(classes)


class SymmetricExcluding(NoiseSettings):
    """Each other class with probability rate / (K - 1): a share ``rate`` is really wrong."""

    kind: Literal["symmetric_excluding"] = "symmetric_excluding"

    def transition(self, names: Sequence[str]) -> np.ndarray:
        """P, (K, K)."""
        classes = len(names)
        others = (1 - np.eye(classes)) * (self.rate / max(classes - 1, 1))
        return others + np.diag(1 - others.sum(1))


class Asymmetric(NoiseSettings):
    """P = (1 - rate) I + rate M: every class is mistaken for some classes only, by default k for k + 1 (mod K)."""

    kind: Literal["asymmetric"] = "asymmetric"
    pairs: Annotated[list[Annotated[list[Whole | str], Field(min_length=2, max_length=2)]], Field(min_length=1)] | (
        None
    ) = None
    """``[[cat, dog], [truck, automobile]]``: which class is mistaken for which; others are never mistaken."""
    matrix: list[list[Annotated[Real, Field(ge=0, le=1)]]] | None = None
    """M itself, K x K; every row sums to 1."""

    @model_validator(mode="after")
    def _one_way(self) -> Asymmetric:
        if self.pairs is not None and self.matrix is not None:
            raise UserError("matrix", "a matrix beside pairs", "one of the two", "matrix=null")
        return self

    def transition(self, names: Sequence[str]) -> np.ndarray:
        """P, (K, K).

        Raises:
            UserError: If ``pairs`` or ``matrix`` do not fit the classes.
        """
        return (1 - self.rate) * np.eye(len(names)) + self.rate * self._mistaken(names)

    def _mistaken(self, names: Sequence[str]) -> np.ndarray:
        classes = len(names)
        if self.matrix is not None:
            setting, allowed = "data.label_noise.matrix", f"{classes} rows of {classes} numbers that sum to 1"
            if len(self.matrix) != classes or any(len(row) != classes for row in self.matrix):
                shape = f"{len(self.matrix)} rows of {' or '.join(sorted({str(len(row)) for row in self.matrix}))}"
                raise UserError(setting, shape, allowed)
            for row in self.matrix:
                if abs(sum(row) - 1) > _SUM:
                    raise UserError(setting, f"a row that sums to {sum(row):g}", allowed)
            matrix = np.array(self.matrix, dtype=np.float64)
            return matrix / matrix.sum(1, keepdims=True)
        if self.pairs is None:
            return np.roll(np.eye(classes), 1, axis=1)
        mistaken = np.eye(classes)
        sources = class_numbers([pair[0] for pair in self.pairs], names, "data.label_noise.pairs")
        for source, pair in zip(sources, self.pairs, strict=True):
            mistaken[source] = np.eye(classes)[class_numbers(pair[1:], names, "data.label_noise.pairs")[0]]
        return mistaken


LabelNoise = Annotated[Symmetric | SymmetricExcluding | Asymmetric, Field(discriminator="kind")]


def corrupt(noise: LabelNoise, training: ImageSet) -> ImageSet:
    """The same images with labels drawn from P; ``true_labels`` keeps those that were.

    Raises:
        UserError: If the settings do not fit the classes.
    """
    transition = noise.transition(training.class_names)
    assert np.allclose(transition.sum(1), 1, atol=_SUM)
    # One number for every row of the source: legacy generator, whose stream is frozen by numpy.
    draws = np.random.RandomState(noise.seed).random_sample(int(training.index.max()) + 1)[training.index.numpy()]
    true = training.labels.numpy()
    labels = true.copy()
    for k, edges in enumerate(transition.cumsum(1)[:, :-1]):
        labels[true == k] = np.searchsorted(edges, draws[true == k], side="right")
    return replace(training, labels=torch.from_numpy(labels), true_labels=training.labels)
