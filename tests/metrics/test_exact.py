"""Exact intervals against scipy's own, by what defines them, and by counting how often they cover."""

import math

import numpy as np
import pytest
import scipy.stats

from latent_audit.errors import InputError
from latent_audit.metrics import exact


@pytest.mark.parametrize("n", [1, 8, 24, 60])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_equal_to_scipy_and_to_the_tails_that_define_it(n, confidence):
    tail = (1 - confidence) / 2
    for k in range(n + 1):
        lo, hi = exact.clopper_pearson(k, n, confidence)
        there = scipy.stats.binomtest(k, n).proportion_ci(confidence, "exact")
        assert (lo, hi) == pytest.approx((there.low, there.high), abs=1e-9)
        if k:
            assert scipy.stats.binom.sf(k - 1, n, lo) == pytest.approx(tail)
        if k < n:
            assert scipy.stats.binom.cdf(k, n, hi) == pytest.approx(tail)


def test_covers_every_share():
    n, share = 24, np.linspace(0.001, 0.999, 333)
    ends = np.array([exact.clopper_pearson(k, n) for k in range(n + 1)])
    inside = (ends[:, :1] <= share) & (share <= ends[:, 1:])
    chance = scipy.stats.binom.pmf(np.arange(n + 1)[:, None], n, share)
    assert (inside * chance).sum(axis=0).min() >= 0.95


def test_ends_and_errors():
    assert exact.clopper_pearson(0, 24)[0] == 0.0 and exact.clopper_pearson(24, 24)[1] == 1.0
    assert all(map(math.isnan, exact.clopper_pearson(0, 0)))
    for k, n, confidence in ((-1, 3, 0.95), (4, 3, 0.95), (1, 3, 0.0), (1, 3, 1.0)):
        with pytest.raises(InputError):
            exact.clopper_pearson(k, n, confidence)


def test_difference_of_newcombe():
    # Newcombe 1998, 56 of 70 against 48 of 80, from Wilson's intervals: .2, .0524 to .3339.
    found = exact.difference_interval((0.8, 0.6918, 0.8770), (0.6, 0.4904, 0.7005))
    assert found == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-3)
    assert exact.difference_interval((0.3, 0.3, 0.3), (0.1, 0.1, 0.1)) == pytest.approx((0.2, 0.2, 0.2))
    assert math.isnan(exact.difference_interval((0.3, math.nan, 0.4), (0.1, 0.0, 0.2))[1])
