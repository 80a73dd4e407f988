"""Paired shares against published intervals, the binomial distribution and enumeration of all small tables."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from latent_audit.errors import InputError
from latent_audit.metrics import paired, stats


def outcomes(both, only_a, only_b, neither):
    """Two boolean vectors with these counts."""
    rows = [(True, True)] * both + [(True, False)] * only_a + [(False, True)] * only_b + [(False, False)] * neither
    return np.array(rows, bool).reshape(-1, 2).T


def tables(n):
    return ((a, b, c, n - a - b - c) for a, b, c in itertools.product(range(n + 1), repeat=3) if a + b + c <= n)


# R. G. Newcombe, Statistics in Medicine 17 (1998), 2635-2650, method 10.
@pytest.mark.parametrize("table, lo, hi", [
    ((36, 12, 2, 0), 0.0569, 0.3404),
    ((18, 12, 2, 18), 0.0562, 0.3290),
    ((53, 0, 0, 1), -0.0729, 0.0729),
    ((0, 30, 0, 0), 0.8395, 1.0),
])  # fmt: skip
def test_intervals_as_published(table, lo, hi):
    np.testing.assert_allclose(paired.newcombe_interval(*table), (lo, hi), atol=5e-5)


def test_counts_shares_and_exact_p_value():
    found = paired.compare_shares(*outcomes(5, 9, 2, 8))
    assert (found.n, found.only_a, found.only_b) == (24, 9, 2)
    assert (found.share_a, found.share_b) == (14 / 24, 7 / 24)
    assert found.difference == pytest.approx(found.share_a - found.share_b, rel=1e-12)
    # Under the null the 11 discordant prompts fall on either side like coins.
    assert found.p_value == pytest.approx(2 * scipy.stats.binom.cdf(2, 11, 0.5), rel=1e-12)
    assert (found.lo, found.hi) == paired.newcombe_interval(5, 9, 2, 8)


def test_order_of_the_prompts_does_not_matter_and_swapping_mirrors():
    a, b = outcomes(5, 9, 2, 8)
    order = np.random.default_rng(0).permutation(24)
    assert paired.compare_shares(a[order], b[order]) == paired.compare_shares(a, b)
    there, back = paired.compare_shares(a, b), paired.compare_shares(b, a)
    np.testing.assert_allclose((back.difference, back.lo, back.hi), (-there.difference, -there.hi, -there.lo))
    assert back.p_value == there.p_value


@pytest.mark.parametrize("n", [1, 2, 5])
def test_every_small_table_gives_an_interval_around_its_difference(n):
    for both, only_a, only_b, neither in tables(n):
        lo, hi = paired.newcombe_interval(both, only_a, only_b, neither)
        assert -1 - 1e-12 <= lo <= (only_a - only_b) / n <= hi <= 1 + 1e-12 and lo < hi
        # Counting failures instead of successes turns the sign.
        turned = paired.newcombe_interval(neither, only_b, only_a, both)
        np.testing.assert_allclose(turned, (-hi, -lo), atol=1e-12)


@pytest.mark.parametrize("rates", [(0.2, 0.3, 0.1, 0.4), (0.05, 0.4, 0.05, 0.5), (0.45, 0.05, 0.05, 0.45)])
def test_interval_covers_the_true_difference(rates):
    # The exact probability, summed over all tables of 15 prompts.
    truth = rates[1] - rates[2]
    chance = scipy.stats.multinomial(15, rates)
    covered = 0.0
    for table in tables(15):
        lo, hi = paired.newcombe_interval(*table)
        covered += chance.pmf(table) * (lo <= truth <= hi)
    assert 0.93 <= covered < 1


def test_no_discordant_prompt_is_no_certainty():
    a, b = outcomes(4, 0, 0, 8)
    found = paired.compare_shares(a, b)
    assert stats.paired_difference_interval(a, b, "mean") == (0, 0), "what a bootstrap would claim"
    assert found.difference == 0 and found.lo < -0.1 and found.hi > 0.1 and found.p_value == 1


def test_confidence_widens():
    narrow, wide = (paired.compare_shares(*outcomes(5, 9, 2, 8), confidence=level) for level in (0.8, 0.99))
    assert wide.lo < narrow.lo < narrow.difference < narrow.hi < wide.hi


def test_nothing_is_unknown():
    found = paired.compare_shares([], [])
    assert (found.n, found.only_a, found.only_b, found.p_value) == (0, 0, 0, 1)
    assert all(math.isnan(value) for value in (found.share_a, found.share_b, found.difference, found.lo, found.hi))


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="same prompts"):
        paired.compare_shares([True, False], [True])
    with pytest.raises(InputError, match="booleans"):
        paired.compare_shares([0.5, 1], [0, 1])
    with pytest.raises(InputError, match="confidence"):
        paired.compare_shares([True], [False], confidence=95)
    with pytest.raises(InputError, match="negative"):
        paired.newcombe_interval(3, -1, 2, 0)
