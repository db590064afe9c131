"""Choosing a soup for images unlike those of training: by few labels, by gradient, without labels, or per image.

All choose by some images of the set and are measured on its others. The protocol with few labels is that of Croce et
al. (2023, arXiv:2302.10164, section 3.4); the other three are ours ("automatic schemes" are its future work).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..libraries import Tensor, torch
from ..losses import cross_entropy, entropy_of
from ..models import Classifier
from ..models.modes import attack_mode, frozen
from ..types import Images
from .soup import Weights, unevenness

SIZES = (10, 30, 100, 300, 500)
"""Numbers of labelled images of the protocol."""
_LOW = -0.4
"""The least weight that labels may choose by gradient: the grid's."""


def choose_by_shots(right: Tensor, mixes: Sequence[Weights], shots: Tensor) -> int:
    """The mix with the most right answers on a few labelled images; ties as in ``choose``.

    Args:
        right: (G, N) bool, whether mix g is right on image n.
        mixes: G mixes.
        shots: (k,) which images are labelled.
    """
    counts = right[:, shots].sum(1).tolist()
    return max(range(len(mixes)), key=lambda g: (counts[g], -unevenness(mixes[g]), -g))


def choose_by_entropy(entropy: Tensor, mixes: Sequence[Weights], shots: Tensor) -> int:
    """The mix that is surest on average of a few images without labels; extrapolated mixes do not take part.

    An extrapolated net may be sure of everything, so low entropy would choose it whatever the images. Sure is not
    right: under strong shifts this can choose badly.

    Args:
        entropy: (G, N) entropy of the prediction of mix g for image n, in nats.
        mixes: G mixes.
        shots: (k,) which images are looked at.
    """
    means = entropy[:, shots].double().mean(1).tolist()
    return min(_inner(mixes), key=lambda g: (means[g], unevenness(mixes[g]), g))


def choose_per_image(entropy: Tensor, mixes: Sequence[Weights]) -> Tensor:
    """(N,) the mix of least entropy for each image by itself; extrapolated mixes do not take part."""
    inner = torch.tensor(_inner(mixes))
    return inner[entropy[inner].argmin(0)]


def learn_mix(
    classifier: Classifier, x: Images, y: Tensor | None = None, *, steps: int = 30, batch_size: int = 128
) -> Weights:
    """The weights that L-BFGS finds from equal ones, all else frozen.

    With labels it minimises the cross-entropy over weights of at least -0.4 (for two domains: the range of the usual
    grid); without, the mean entropy of the predictions over weights in [0, 1].

    Args:
        classifier: A net with domains, in any mode; it is run in eval mode.
        x: (N, C, H, W) in [0, 1].
        y: (N,) classes or None.
        steps: Of L-BFGS, each with a line search.
        batch_size: Images sent through at once.
    """
    low = _LOW if y is not None else 0.0
    count = len(classifier.domains)
    free = torch.zeros(count, dtype=x.dtype, device=x.device, requires_grad=True)

    def weights() -> Tensor:
        return low + (1 - count * low) * free.softmax(0)

    optimizer = torch.optim.LBFGS([free], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros((), device=x.device)
        for rows in torch.arange(len(x)).split(batch_size):
            logits = classifier(x[rows], mix=weights())
            values = cross_entropy(logits, y[rows]) if y is not None else entropy_of(logits)
            part = values.sum() / len(x)
            part.backward()
            total = total + part.detach()
        return total

    with attack_mode(classifier, "eval"), frozen(classifier), torch.enable_grad():
        optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    found = weights().detach().double()
    found = (found / found.sum()).tolist()
    return dict(zip(classifier.domains, found, strict=True))


def few_shot_curve(
    right: Tensor, mixes: Sequence[Weights], sizes: Sequence[int] = SIZES, *, trials: int = 50, seed: int = 0
) -> list[tuple[int, float, float]]:
    """(k, mean, standard deviation) of the accuracy on the other images of the mix chosen by k labelled ones.

    Images are drawn anew in each trial. Sizes that leave no image to measure on are left out.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for size in sizes:
        if size >= right.shape[1]:
            continue
        found = []
        for _ in range(trials):
            order = torch.randperm(right.shape[1], generator=generator)
            chosen = choose_by_shots(right, mixes, order[:size])
            found.append(right[chosen, order[size:]].double().mean())
        values = torch.stack(found)
        rows.append((size, float(values.mean()), float(values.std())))
    return rows


def enough_images(curve: Sequence[tuple[int, float, float]], tolerance: float = 0.01) -> int | None:
    """The least number of labelled images that chooses as well as the most, within ``tolerance``.

    Both the mean accuracy must come so near to that of the largest size, and its deviation must be so small. None if
    no smaller size does: then more images may still help.
    """
    if not curve:
        return None
    best = curve[-1][1]
    fits = [size for size, mean, deviation in curve[:-1] if best - mean <= tolerance and deviation <= tolerance]
    return fits[0] if fits else None


def _inner(mixes: Sequence[Weights]) -> list[int]:
    """Mixes with all weights in [0, 1]; all of them if there is none such."""
    found = [g for g, mix in enumerate(mixes) if all(0 <= weight <= 1 for weight in mix.values())]
    return found or list(range(len(mixes)))
