"""Clusters: correlation against its definition, what clustered prompts are worth, and bootstraps of whole clusters."""

import math

import numpy as np
import pytest
import scipy.stats

from latent_audit.errors import InputError
from latent_audit.metrics import clusters

SIX_OF_FOUR = np.repeat(np.arange(6), 4)


def test_clusters_that_agree_within_correlate_fully_and_alternating_ones_do_not():
    agree = np.repeat([0, 1, 0, 1, 1, 0], 4)
    assert clusters.intraclass_correlation(agree, SIX_OF_FOUR) == pytest.approx(1.0)
    # Half of every cluster: between them nothing differs, and the estimate is -1 / (m - 1).
    assert clusters.intraclass_correlation(np.tile([0, 0, 1, 1], 6), SIX_OF_FOUR) == pytest.approx(-1 / 3)


def test_correlation_is_that_of_the_analysis_of_variance():
    rng = np.random.default_rng(0)
    values = rng.normal(size=24) + rng.normal(size=6)[SIX_OF_FOUR]
    groups = values.reshape(6, 4)
    f = scipy.stats.f_oneway(*groups).statistic
    # Of equal sizes m: (F - 1) / (F + m - 1).
    assert clusters.intraclass_correlation(values, SIX_OF_FOUR) == pytest.approx((f - 1) / (f + 3))


def test_correlation_recovers_what_outcomes_were_drawn_with():
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(4000), 4)
    shares = rng.beta(0.25 * 7 / 3, 0.75 * 7 / 3, size=4000)  # a beta-binomial of correlation .3
    outcomes = rng.random(16000) < shares[labels]
    assert clusters.intraclass_correlation(outcomes, labels) == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(
    "outcomes, labels", [([1, 0, 1], [0, 0, 0]), ([1, 0, 1], [0, 1, 2]), ([0, 0, 0, 0], [0, 0, 1, 1])]
)
def test_correlation_that_cannot_be_told_is_unknown(outcomes, labels):
    assert math.isnan(clusters.intraclass_correlation(outcomes, labels))


def test_design_effect_is_one_without_clusters_and_never_small_with_them():
    assert clusters.design_effect(None) == 1.0 == clusters.design_effect(np.arange(7))
    # 1 + (4 - 1) .3, where nothing is known, where nothing varies, and where the data say less.
    for outcomes in (None, np.zeros(24), np.tile([0, 0, 1, 1], 6)):
        assert clusters.design_effect(SIX_OF_FOUR, outcomes) == pytest.approx(1.9)
    assert clusters.design_effect(SIX_OF_FOUR, np.repeat([0, 1, 0, 1, 1, 0], 4)) == pytest.approx(4.0)
    rows = np.stack([np.zeros(24), np.repeat([0, 1, 0, 1, 1, 0], 4)])
    assert clusters.design_effect(SIX_OF_FOUR, rows) == pytest.approx(4.0)


def test_one_large_cluster_is_worth_less_than_the_number_of_clusters():
    labels = [0] * 21 + [1, 2, 3]
    outcomes = [1] * 21 + [0, 0, 0]
    # All of the 21 say one thing: Kish's (sum m)^2 / sum m^2.
    assert 24 / clusters.design_effect(labels, outcomes) == pytest.approx(24**2 / (21**2 + 3))


def test_labels_of_any_kind_but_one_each():
    named = np.array(list("aabbccddeeff"))
    assert clusters.design_effect(named) == pytest.approx(1.3)
    with pytest.raises(InputError, match="one label for each of 3 prompts"):
        clusters.intraclass_correlation([1, 0, 1], [0, 1])


def test_the_median_is_an_observed_value_and_infinity_counts():
    assert clusters.median([4.0, 1.0, math.inf, 2.0]) == 2.0
    assert clusters.median([1.0, math.inf, math.inf]) == math.inf and math.isnan(clusters.median([]))
    values = np.array([0.01] * 3 + [0.02] * 10 + [math.inf] * 11)
    lo, hi = clusters.median_interval(values)
    assert lo <= clusters.median(values) <= hi == math.inf
    assert all(math.isnan(end) for end in clusters.median_interval([1.0, 2.0], [0, 0]))
    assert all(math.isnan(end) for end in clusters.median_interval([1.0, math.nan]))


def test_whole_clusters_are_drawn():
    drawn, label = clusters.bootstrap_rows(SIX_OF_FOUR, 24, resamples=500)
    assert (drawn == drawn[:, SIX_OF_FOUR * 4]).all() and (label == SIX_OF_FOUR).all()
    assert (drawn.sum(axis=1) == 24).all() and drawn[:, 0].var() == pytest.approx(5 / 6, rel=0.2)
    again, _ = clusters.bootstrap_rows(SIX_OF_FOUR, 24, resamples=500)
    assert (again == drawn).all()


def test_a_ratio_of_one_factor_is_that_factor():
    own = np.array([0.01, 0.02, 0.04, 0.08])
    ratio = clusters.geometric_mean_ratio(2 * own, own)
    assert ratio == pytest.approx((2.0, 2.0, 2.0))


def test_the_bounds_of_a_ratio_are_students_on_the_logarithms():
    rng = np.random.default_rng(2)
    own, twin = np.exp(rng.normal(size=(2, 40)))
    logs = np.log(twin / own)
    ratio = clusters.geometric_mean_ratio(twin, own, resamples=20000)
    mean, error = logs.mean(), logs.std(ddof=1) / math.sqrt(40)
    reach = scipy.stats.t.isf(0.05, 39) * error
    assert ratio.value == pytest.approx(math.exp(mean))
    assert np.log(ratio[1:]) == pytest.approx((mean - reach, mean + reach), abs=0.1 * reach)


def test_clusters_widen_a_ratio_and_one_cluster_bounds_none():
    rng = np.random.default_rng(3)
    own = np.ones(24)
    twin = np.exp(rng.normal(size=6)[SIX_OF_FOUR])
    alone, together = clusters.geometric_mean_ratio(twin, own), clusters.geometric_mean_ratio(twin, own, SIX_OF_FOUR)
    assert together.lo < alone.lo < alone.value == together.value < alone.hi < together.hi
    assert math.isnan(clusters.geometric_mean_ratio(twin, own, np.zeros(24)).lo)
    for bad in (np.zeros(24), np.full(24, math.inf), np.ones(3)):
        with pytest.raises(InputError, match="geometric_mean_ratio"):
            clusters.geometric_mean_ratio(bad, own)
    assert math.isnan(clusters.geometric_mean_ratio([], []).value)
