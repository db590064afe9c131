"""scikit-learn's 1797 handwritten digits of 8 x 8 pixels, which come with the library and need no network."""

from functools import partial
from typing import Any

import numpy as np
import torch

from .encoded import ArrayCells, Encoded, hash_cells
from .split import stratified_split

TEST_EXAMPLES = 360


def read_digits(splits: tuple[str, ...]) -> Encoded:
    """The rows of the ``train`` (1437) or ``test`` (360) split, or of both, in scikit-learn's order.

    Values 0 to 16 become ``round(v * 255 / 16)``. The split is fixed and stratified.
    """
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    labels = torch.from_numpy(digits.target.astype(np.int64))
    train, test = stratified_split(labels, TEST_EXAMPLES, seed=0)
    rows = torch.cat([{"train": train, "test": test}[split] for split in splits]).sort().values
    pixels = np.round(digits.images[rows.numpy()] * 255 / 16).astype(np.uint8)
    cells = ArrayCells(pixels, "digits")
    return Encoded(
        labels=labels[rows],
        class_names=tuple(str(k) for k in range(10)),
        read=lambda memory_limit: cells,
        digest=partial(hash_cells, cells, labels[rows]),
    )
