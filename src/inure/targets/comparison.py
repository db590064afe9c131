"""A paired test of two evaluations: which net is better on the same examples, and is it chance?"""

import math
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet

from ..evaluation.intervals import Z95
from ..settings.errors import UserError


@dataclass(frozen=True)
class Comparison:
    """Two accuracies on the same examples. Differences are B minus A."""

    quantity: str
    examples: int
    a: float
    b: float
    only_a: int
    """Examples right under A only."""
    only_b: int
    p_value: float
    """McNemar's exact two-sided test on the examples where the two differ."""

    @property
    def difference(self) -> float:
        """B minus A."""
        return self.b - self.a

    @property
    def interval95(self) -> tuple[float, float]:
        """Wald's interval of a paired difference (normal approximation)."""
        share_a, share_b = self.only_a / self.examples, self.only_b / self.examples
        half = Z95 * math.sqrt(max(share_a + share_b - (share_b - share_a) ** 2, 0) / self.examples)
        return self.difference - half, self.difference + half


def compare_outcomes(a: Path, b: Path, *, suite: str = "quick") -> list[Comparison]:
    """Clean and, where attacks were run, robust accuracy of A and B.

    Raises:
        UserError: If a file is missing or the two were not run on the same examples with the same labels.
    """
    tables = [_read(a, "A", suite), _read(b, "B", suite)]
    left, right = tables
    if left.keys() != right.keys() or any(left[i][0] != right[i][0] for i in left):
        common = len(left.keys() & right.keys())
        given = f"{len(left)} and {len(right)} examples, {common} in common"
        raise UserError("B", given, "the same examples and labels as A", "the same --data and --examples for both")
    rows = []
    for position, quantity in ((1, "clean"), (2, "robust")):
        ours = {i: bool(left[i][position]) for i in left}
        theirs = {i: bool(right[i][position]) for i in right}
        if quantity == "robust" and not (_attacked(left) and _attacked(right)):
            continue
        rows.append(paired(quantity, ours, theirs))
    return rows


def paired(quantity: str, a: dict[int, bool], b: dict[int, bool]) -> Comparison:
    """The comparison of two sets of verdicts on the same examples."""
    only_a = sum(a[i] and not b[i] for i in a)
    only_b = sum(b[i] and not a[i] for i in a)
    total = len(a)
    return Comparison(
        quantity,
        total,
        sum(a.values()) / total,
        sum(b.values()) / total,
        only_a,
        only_b,
        mcnemar(only_a, only_b),
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided p-value: both kinds of disagreement are equally likely under the null (McNemar, 1947)."""
    total, fewer = only_a + only_b, min(only_a, only_b)
    coefficient = tail = 1
    for k in range(fewer):
        coefficient = coefficient * (total - k) // (k + 1)  # of k + 1, from that of k
        tail += coefficient
    return min(1.0, 2 * tail / 2**total)


def read_outcomes(path: Path) -> dict[int, tuple[bool, bool]]:
    """Of every example of an evaluation, by its number: right on the clean image; right, and standing to the end.

    Raises:
        UserError: If the file is missing or damaged.
    """
    return {i: (clean, clean and standing) for i, (_, clean, standing, _) in _read(path, "FILE", "quick").items()}


def read_labels(path: Path) -> dict[int, int]:
    """The label of every example of an evaluation, by its number.

    Raises:
        UserError: If the file is missing or damaged.
    """
    return {i: label for i, (label, *_) in _read(path, "FILE", "quick").items()}


def _attacked(examples: dict[int, tuple[int, bool, bool, bool]]) -> bool:
    return any(row[3] for row in examples.values())


def _read(path: Path, setting: str, suite: str) -> dict[int, tuple[int, bool, bool, bool]]:
    """Index -> (label, right on the clean image, standing to the end, attacked at all)."""
    candidates = [path, path / "outcomes.parquet", path / "evaluations" / suite / "outcomes.parquet"]
    file = next((c for c in candidates if c.is_file()), None)
    if file is None:
        folders = [folder / "sets" for folder in (path, path / "evaluations" / suite)]
        of_sets = next((folder for folder in folders if folder.is_dir()), None)
        remedy = f"one of {of_sets}/*" if of_sets else "inure evaluate"
        raise UserError(setting, str(path), "outcomes.parquet, its folder, or a run that was evaluated", remedy)
    try:
        table = pyarrow.parquet.read_table(file)
        rows = table.select(["index", "label", "attack", "robust"]).to_pylist()
    except (OSError, ValueError, KeyError) as error:
        raise UserError(setting, f"{file} ({error})", "an outcomes.parquet that inure evaluate wrote") from None
    if not rows:
        raise UserError(setting, f"{file} without a row", "an outcomes.parquet that inure evaluate wrote")
    examples: dict[int, tuple[int, bool, bool, bool]] = {}
    for row in rows:
        label, clean, standing, attacked = examples.get(row["index"], (row["label"], False, True, False))
        if row["attack"] == "clean":
            clean = row["robust"]
        else:
            attacked = True
        examples[row["index"]] = (label, clean, standing and row["robust"], attacked)
    return examples
