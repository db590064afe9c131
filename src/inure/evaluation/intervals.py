"""Confidence intervals of accuracies."""

import math

_Z95 = 1.959963984540054


def wilson(successes: int, total: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share (Wilson, 1927); (0, 1) of nothing."""
    if total == 0:
        return 0.0, 1.0
    share, z2 = successes / total, _Z95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    # At 0 and at all the bound is exact; rounding would move it
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == total else min(1.0, centre + half)
    return low, high
