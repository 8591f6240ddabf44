"""Scores against published and hand-worked values."""

import pytest

from thinkswitch.evaluate import Score, compare, mcnemar, seed_of, summarise, wilson


@pytest.mark.parametrize("k, n, low, high", [  # Newcombe 1998, table I, method 3 (Wilson without continuity correction)
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718), (29, 29, 0.8830, 1.0)])
def test_wilson(k, n, low, high):
    assert wilson(k, n) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize("gained, lost, p", [(0, 0, 1.0), (5, 5, 1.0), (1, 0, 1.0), (6, 0, 2 / 64), (8, 2, 2 * (1 + 10 + 45) / 1024)])
def test_mcnemar_is_the_exact_binomial(gained, lost, p):
    assert mcnemar(gained, lost) == pytest.approx(p) == mcnemar(lost, gained)


def of(*right):
    return [Score(i, bool(r), bool(r), 10 * (i + 1), None, "stop") for i, r in enumerate(right)]


def test_summary():
    s = summarise(of(1, 0, 1, 1))
    assert (s.n, s.correct, s.accuracy, s.think_rate, s.mean_tokens) == (4, 3, 0.75, 0.75, 25)
    assert s.low < 0.75 < s.high


def test_paired_comparison_wants_the_same_questions():
    paired = compare(of(0, 0, 1, 1), of(1, 1, 1, 0)[::-1])
    assert (paired.gained, paired.lost) == (2, 1)
    with pytest.raises(ValueError, match="same questions"):
        compare(of(0, 0), of(1))


def test_seeds_differ_by_purpose_and_stay():
    seeds = {seed_of(0, "think", r, i, s) for r in range(3) for i in range(50) for s in range(4)}
    assert len(seeds) == 600
    assert seed_of(0, "think", 1, 2, 3) == 35643087830956028  # a change here would change every resumed run
