"""Holding out part of a labelled set with every class in proportion."""

from __future__ import annotations

from ..libraries import Tensor, np, torch
from ..settings.errors import UserError


def stratified_split(labels: Tensor, size: float, seed: int = 0, *, every_class: bool = False) -> tuple[Tensor, Tensor]:
    """Two sets of rows, both ascending: those to train on and ``size`` of them held out.

    Each class gives its exact share rounded down or up (largest remainder), and always keeps an example to
    train on. The split depends on ``labels``, ``size`` and ``seed`` only, never on the seed of the training run.

    Args:
        labels: (N,) integers.
        size: A fraction in (0, 1), or a count of at least 1.
        seed: Which of the possible splits.
        every_class: Every class of at least two examples gives one or more, at the cost of the largest, if ``size``
            is enough for that: what is held out of a long tail then knows every class.

    Returns:
        (train_rows, held_out_rows), int64.

    Raises:
        UserError: If ``size`` is neither, or leaves a class without an example to train on.
    """
    classes, counts = np.unique(labels.numpy(), return_counts=True)
    total = _count(size, len(labels), most=len(labels) - len(classes))
    quotas = _quotas(counts, total)
    if every_class:
        _give_one(quotas, counts)
    # The legacy generator's stream is frozen by numpy: the same split for every version to come.
    random = np.random.RandomState(seed)
    held_out = [
        random.permutation(np.flatnonzero(labels.numpy() == label))[:quota]
        for label, quota in zip(classes, quotas, strict=True)
    ]
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[torch.from_numpy(np.concatenate(held_out))] = True
    return (~mask).nonzero().flatten(), mask.nonzero().flatten()


def _count(size: float, examples: int, most: int) -> int:
    allowed = f"a fraction in (0, 1) or a count from 1 to {most} of these {examples} examples"
    if not size > 0 or (size >= 1 and size != int(size)):
        raise UserError("data.validation", size, allowed)
    count = int(size) if size >= 1 else max(1, round(size * examples))
    if count > most:
        given = count if size >= 1 else size
        raise UserError("data.validation", given, allowed + ", so that every class keeps one to train on", "0.1")
    return count


def _quotas(counts: np.ndarray, total: int) -> np.ndarray:
    """``total`` divided in proportion to ``counts``, each quota below its count."""
    # Whole numbers throughout: quota = floor(total * count / all), ranked by what the division leaves over.
    quotas, left_over = np.divmod(total * counts, counts.sum())
    order = np.argsort(-left_over, kind="stable")
    missing = total - int(quotas.sum())
    while missing:
        for k in order:
            if missing and quotas[k] < counts[k] - 1:
                quotas[k] += 1
                missing -= 1
    return quotas


def _give_one(quotas: np.ndarray, counts: np.ndarray) -> None:
    """Raise empty quotas to 1 where two examples are there, and take as many from the largest."""
    able = counts >= 2
    if quotas.sum() < able.sum():
        return
    missing = able & (quotas == 0)
    quotas[missing] = 1
    for _ in range(int(missing.sum())):
        quotas[np.argmax(quotas)] -= 1
