"""Intervals and p-values against published and hand-worked ones."""

import pytest

from thinkswitch.statistics import mcnemar, wilson

# Newcombe 1998, table I, method 3 (Wilson without continuity correction): successes, trials, low, high
NEWCOMBE = [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
    (29, 29, 0.8830, 1.0),
]
COIN_TOSSES = [  # gained, lost, p
    (0, 0, 1.0),
    (5, 5, 1.0),
    (1, 0, 1.0),
    (6, 0, 2 / 64),
    (8, 2, 2 * (1 + 10 + 45) / 1024),
]


@pytest.mark.parametrize("successes, trials, low, high", NEWCOMBE)
def test_wilson_s_interval_is_newcombe_s(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize("gained, lost, p", COIN_TOSSES)
def test_mcnemar_s_test_is_the_exact_binomial(gained, lost, p):
    assert mcnemar(gained, lost) == pytest.approx(p)
    assert mcnemar(lost, gained) == mcnemar(gained, lost)
