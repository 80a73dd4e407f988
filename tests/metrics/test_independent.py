"""The difference of two independent measures against a published example and by counting how often it covers."""

import math

import numpy as np
import pytest
import scipy.stats

from latent_audit.metrics import stats
from latent_audit.metrics.independent import difference_interval


def test_newcombes_own_example():
    # Newcombe 1998, 56 of 70 against 48 of 80, method 10, from Wilson's intervals.
    first, second = (56 / 70, *stats.wilson_interval(56, 70)), (48 / 80, *stats.wilson_interval(48, 80))
    assert difference_interval(first, second) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


def test_ends():
    assert difference_interval((0.3, 0.3, 0.3), (0.1, 0.1, 0.1)) == pytest.approx((0.2, 0.2, 0.2))
    assert math.isnan(difference_interval((0.3, math.nan, 0.4), (0.1, 0.0, 0.2))[1])


@pytest.mark.parametrize("p, q", [(0.02, 0.02), (0.5, 0.1), (0.95, 0.6)])
def test_covers_with_exact_intervals_of_24_prompts(p, q):
    n, counts = 24, np.arange(25)
    ends = [(k / n, *stats.clopper_pearson(int(k), n)) for k in counts]
    inside = np.array([[lo <= p - q <= hi for _, lo, hi in (difference_interval(a, b) for b in ends)] for a in ends])
    chance = np.outer(scipy.stats.binom.pmf(counts, n, p), scipy.stats.binom.pmf(counts, n, q))
    assert (inside * chance).sum() >= 0.95
