"""``inure compare``."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="An evaluation folder, an outcomes.parquet, or a run.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The other one, on the same examples.")],
    suite: Annotated[str, typer.Option(help="Which evaluation, where A and B are runs.")] = "quick",
) -> None:
    """Compare two evaluations example by example: McNemar's exact test of clean and of robust accuracy.

    One line a quantity on stdout: name, A, B, difference with its 95 % interval, only A right, only B right, p.
    """
    from ..targets.comparison import compare_outcomes

    rows = compare_outcomes(a, b, suite=suite)
    if len(rows) == 1:
        print("inure: only clean accuracy is compared: A or B was evaluated without an attack", file=sys.stderr)
    for row in rows:
        low, high = row.interval95
        print(
            f"{row.quantity}\t{row.a:.4f}\t{row.b:.4f}\t{row.difference:+.4f} [{low:+.4f}, {high:+.4f}]"
            f"\t{row.only_a}\t{row.only_b}\tp={row.p_value:.4g}"
        )
