"""scikit-learn's 1797 handwritten digits of 8 x 8 pixels, which come with the library and need no network."""

from __future__ import annotations

import gzip
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..libraries import np, torch
from .encoded import ArrayCells, Encoded, hash_cells
from .split import stratified_split

TEST_EXAMPLES = 360


def read_digits(splits: tuple[str, ...]) -> Encoded:
    """The rows of the ``train`` (1437) or ``test`` (360) split, or of both, in scikit-learn's order.

    Values 0 to 16 become ``round(v * 255 / 16)``. The split is fixed and stratified.
    """
    values = _table()
    labels = torch.from_numpy(values[:, -1].astype(np.int64))
    train, test = stratified_split(labels, TEST_EXAMPLES, seed=0)
    rows = torch.cat([{"train": train, "test": test}[split] for split in splits]).sort().values
    pixels = np.round(values[rows.numpy(), :-1].reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    cells = ArrayCells(pixels, "digits")
    return Encoded(
        labels=labels[rows],
        class_names=tuple(str(k) for k in range(10)),
        read=lambda memory_limit: cells,
        digest=partial(hash_cells, cells, labels[rows]),
    )


@cache
def _table() -> np.ndarray:
    """(1797, 65): the 64 pixels, 0 to 16, and the class of each digit, as ``sklearn.datasets.load_digits`` reads them.

    From the file itself: to import ``sklearn.datasets`` takes a second.
    """
    found = find_spec("sklearn")
    file = Path(found.origin or "").parent / "datasets" / "data" / "digits.csv.gz" if found else None
    if file is None or not file.exists():  # another version of scikit-learn, which knows its own files
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        return np.column_stack([digits.data, digits.target])
    with gzip.open(file, "rt") as lines:
        return np.loadtxt(lines, delimiter=",")
