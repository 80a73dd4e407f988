"""Break budgets by hand, against numpy's quantiles and scipy's binomial."""

import math

import numpy as np
import pytest
import scipy.stats

from latent_audit.errors import InputError
from latent_audit.metrics import break_budget as metric
from latent_audit.metrics import stats

INF = math.inf


def panel(seed, n, *, largest=INF):
    """Brackets of n prompts whose true thresholds are log-normal, searched on a grid of doubling budgets."""
    truth = 0.001 * np.exp(np.random.default_rng(seed).normal(size=n))
    grid = np.array([0.0, *(0.0001 * 2.0 ** np.arange(10))])
    grid = grid[grid <= largest]
    place = np.searchsorted(grid, truth)
    return grid[place - 1], np.append(grid, INF)[place]


@pytest.mark.parametrize("hi, value", [
    ([1.0, 2.0, 3.0], 2.0),
    ([4.0, 1.0, 3.0, 2.0], 2.0),  # half have fallen at 2
    ([1.0, INF], 1.0),
    ([1.0, INF, INF], INF),  # fewer than half
    ([2.0, 2.0, 2.0, 5.0], 2.0),
    ([7.0], 7.0),
])  # fmt: skip
def test_the_smallest_budget_at_which_half_have_fallen(hi, value):
    found = metric.break_budget(np.zeros(len(hi)), hi)
    assert found.value == value and found.n == len(hi) and found.fallen == np.isfinite(hi).sum()
    if math.isfinite(value):
        assert (np.asarray(hi) <= value).mean() >= 0.5 > (np.asarray(hi) < value).mean()


@pytest.mark.parametrize("seed, n, largest", [(0, 24, INF), (1, 25, INF), (2, 24, 0.0011), (3, 61, 0.0004)])
def test_against_numpys_inverted_distribution_function(seed, n, largest):
    lo, hi = panel(seed, n, largest=largest)
    found = metric.break_budget(lo, hi, seed=5)
    assert found.value == np.quantile(hi, 0.5, method="inverted_cdf")
    draws = [np.quantile(row, 0.5, method="inverted_cdf") for row in hi[stats.resampled_rows(n, 1000, 5)]]
    assert (found.lo, found.hi) == (np.sort(draws)[24], np.sort(draws)[975])
    assert found.lo <= found.value <= found.hi


def test_what_the_search_could_resolve_holds_the_median_of_the_thresholds():
    truth = np.sort(0.001 * np.exp(np.random.default_rng(4).normal(size=41)))
    grid = np.array([0.0, 0.0003, 0.0009, 0.0027, 0.0081])
    place = np.searchsorted(grid, truth)
    found = metric.break_budget(grid[place - 1], np.append(grid, INF)[place])
    assert found.above < np.median(truth) <= found.value and found.above in grid and found.value in grid


def test_half_at_the_smallest_budget_is_left_censored():
    found = metric.break_budget([0, 0, 0.001], [0.0005, 0.0005, 0.005])
    assert (found.above, found.value) == (0, 0.0005)


def test_an_interval_may_reach_infinity_and_lie_there():
    # 13 of 24 fell: a resample in which fewer than half did is no rarity, its chance is binomial.
    hi = np.array([0.001] * 13 + [INF] * 11)
    found = metric.break_budget(np.where(np.isinf(hi), 0.005, 0.0005), hi)
    assert scipy.stats.binom.cdf(11, 24, 13 / 24) > 0.025
    assert (found.value, found.lo, found.hi) == (0.001, 0.001, INF)
    none = metric.break_budget([0.005] * 24, [INF] * 24)
    assert (none.value, none.lo, none.hi, none.above, none.fallen) == (INF, INF, INF, 0.005, 0)


def test_interval_covers_the_median():
    truth = 0.001
    covered = 0
    for seed in range(200):
        thresholds = truth * np.exp(np.random.default_rng(seed).normal(size=31))
        found = metric.break_budget(np.zeros(31), thresholds, resamples=200, seed=seed)
        covered += found.lo <= truth <= found.hi
    # Four standard errors of 200 trials around .95.
    assert 0.888 <= covered / 200


def test_units_and_order_do_not_matter():
    lo, hi = panel(6, 24, largest=0.002)
    found = metric.break_budget(lo, hi)
    scaled = metric.break_budget(4 * lo, 4 * hi)
    assert scaled[:4] == tuple(4 * value for value in found[:4]) and scaled[4:] == found[4:]
    order = np.random.default_rng(0).permutation(24)
    again = metric.break_budget(lo[order], hi[order])
    assert (again.value, again.above, again.fallen) == (found.value, found.above, found.fallen)
    assert metric.break_budget(lo, hi, seed=1) == metric.break_budget(lo, hi, seed=1)


def test_few_prompts():
    one = metric.break_budget([0.0], [0.001])
    assert one.value == 0.001 and math.isnan(one.lo) and math.isnan(one.hi)
    none = metric.break_budget([], [])
    assert none.n == none.fallen == 0 and all(math.isnan(value) for value in none[:4])


@pytest.mark.parametrize(
    "lo, hi",
    [([0.1], [0.1]), ([0.2], [0.1]), ([-0.1], [0.1]), ([INF], [INF]), ([math.nan], [0.1]), ([0.1], [math.nan])],
)
def test_impossible_brackets_are_refused(lo, hi):
    with pytest.raises(InputError, match="prompt 1 has"):
        metric.break_budget([0.0, *lo], [0.1, *hi])


def test_bad_shapes_and_settings_are_refused():
    with pytest.raises(InputError, match="one lower and one upper end"):
        metric.break_budget([0, 0], [1])
    with pytest.raises(InputError, match="resamples"):
        metric.break_budget([0], [1], resamples=0)
    with pytest.raises(InputError, match="confidence"):
        metric.break_budget([0], [1], confidence=1.0)
