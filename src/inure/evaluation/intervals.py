"""Confidence intervals of accuracies."""

import math

Z95 = 1.959963984540054
"""Standard errors between the mean and either end of a 95 % interval of a normal distribution."""


def wilson(successes: float, total: float) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share (Wilson, 1927); (0, 1) of nothing.

    Counts may be fractions, where ``total`` is the effective number of examples that depend on each other.
    """
    if total == 0:
        return 0.0, 1.0
    share, z2 = successes / total, Z95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    # At 0 and at all the bound is exact; rounding would move it
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == total else min(1.0, centre + half)
    return low, high
