"""Uncertainty of small samples: Wilson's interval and McNemar's exact test.

Written here, because scipy would add 100 MB for a dozen lines.
"""

import math

Z_95 = 1.959964  # the 97.5 % point of the normal distribution


def wilson(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """The 95 % score interval of a proportion, good at 0, at 1 and for few trials.

    E. B. Wilson, JASA 22 (1927) 209-212; method 3 of R. G. Newcombe, Statistics in Medicine 17 (1998)
    857-872, whose table I is in the tests.
    """
    width = trials + z**2
    centre = (successes + z**2 / 2) / width
    spread = z / width * math.sqrt(successes * (trials - successes) / trials + z**2 / 4)
    return max(0.0, centre - spread), min(1.0, centre + spread)


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p-value: if nothing had changed, each gain or loss would be a coin toss.

    Q. McNemar, Psychometrika 12 (1947) 153-157, with the binomial distribution instead of its approximation.
    """
    tosses = gained + lost
    tail = sum(math.comb(tosses, heads) for heads in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**tosses)
