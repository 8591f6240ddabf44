"""Uncertainty of small samples: Wilson's interval and the exact McNemar test."""

import math


def wilson(k: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927): honest at 0, at 1 and for small n."""
    centre, spread = (k + z * z / 2) / (n + z * z), z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return max(0.0, centre - spread), min(1.0, centre + spread)


def mcnemar(gained: int, lost: int) -> float:
    """Exact p: were it chance, each change would be a coin toss."""
    n = gained + lost
    tail = sum(math.comb(n, i) for i in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**n)
