"""Intervals against scipy and closed forms."""

import math

import numpy as np
import pytest
import scipy.stats

from latent_audit.errors import InputError
from latent_audit.metrics import stats

SCORES = np.random.default_rng(7).gamma(0.6, 1.0, size=24)


@pytest.mark.parametrize("successes, n", [(0, 24), (1, 24), (13, 24), (24, 24), (1, 1), (300, 1000)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_wilson_agrees_with_scipy(successes, n, confidence):
    theirs = scipy.stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    ours = stats.wilson_interval(successes, n, confidence)
    np.testing.assert_allclose(ours, (theirs.low, theirs.high), atol=1e-12)
    assert 0 <= ours[0] <= successes / n <= ours[1] <= 1


def test_wilson_solves_the_score_equation():
    # Both ends p satisfy |share - p| = z * sqrt(p (1 - p) / n): the definition, solved nowhere in our code.
    z = 1.959963984540054
    for end in stats.wilson_interval(7, 40):
        assert abs(7 / 40 - end) == pytest.approx(z * math.sqrt(end * (1 - end) / 40), rel=1e-12)


def test_wilson_of_nothing_is_unknown_and_impossible_counts_are_refused():
    assert all(math.isnan(end) for end in stats.wilson_interval(0, 0))
    for successes, n in ((-1, 3), (4, 3)):
        with pytest.raises(InputError, match="between 0 and n"):
            stats.wilson_interval(successes, n)
    with pytest.raises(InputError, match="confidence"):
        stats.wilson_interval(1, 3, 95)


@pytest.mark.parametrize("statistic", ["median", "mean"])
def test_bootstrap_agrees_with_scipy(statistic):
    theirs = scipy.stats.bootstrap(
        (SCORES,), getattr(np, statistic), n_resamples=1000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    ours = stats.bootstrap_interval(SCORES, statistic, resamples=1000, seed=3)
    np.testing.assert_allclose(ours, (theirs.low, theirs.high), rtol=1e-12)


def test_bootstrap_of_the_mean_approaches_the_normal_interval():
    values = np.random.default_rng(0).normal(3.0, 1.0, size=4000)
    half = 1.96 * values.std() / math.sqrt(len(values))
    lo, hi = stats.bootstrap_interval(values, "mean", resamples=2000)
    np.testing.assert_allclose((lo, hi), (values.mean() - half, values.mean() + half), atol=0.2 * half)


def test_bootstrap_is_fixed_by_its_seed_and_narrows_with_confidence():
    first = stats.bootstrap_interval(SCORES, "mean", seed=1)
    assert first == stats.bootstrap_interval(SCORES, "mean", seed=1)
    assert first != stats.bootstrap_interval(SCORES, "mean", seed=2)
    narrow = stats.bootstrap_interval(SCORES, "mean", seed=1, confidence=0.5)
    assert first[0] < narrow[0] < narrow[1] < first[1]


@pytest.mark.parametrize("values", [[], [0.3], [0.1, float("nan"), 0.2], [0.1, float("inf"), 0.2]])
def test_what_cannot_be_known_is_nan(values):
    other = np.zeros(len(values))
    for interval in (
        stats.bootstrap_interval(values, "median"),
        stats.paired_difference_interval(values, other, "mean"),
        stats.ratio_of_means_interval(values, other + 1),
    ):
        assert all(math.isnan(end) for end in interval)


def test_paired_difference_of_means_is_the_bootstrap_of_the_differences():
    other = SCORES[::-1] * 0.7
    ours = stats.paired_difference_interval(SCORES, other, "mean", seed=4)
    np.testing.assert_allclose(ours, stats.bootstrap_interval(SCORES - other, "mean", seed=4), rtol=1e-12)


def test_paired_difference_of_medians_uses_the_same_prompts_on_both_sides():
    # A constant shift survives exactly only when both sides are resampled together.
    lo, hi = stats.paired_difference_interval(SCORES + 0.25, SCORES, "median")
    np.testing.assert_allclose((lo, hi), (0.25, 0.25))


def test_difference_of_medians_agrees_with_scipy():
    other = np.random.default_rng(8).gamma(0.6, 1.0, size=24)
    theirs = scipy.stats.bootstrap(
        (SCORES, other),
        lambda a, b, axis: np.median(a, axis=axis) - np.median(b, axis=axis),
        n_resamples=1000, method="percentile", paired=True, rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    ours = stats.paired_difference_interval(SCORES, other, "median", seed=5)
    np.testing.assert_allclose(ours, (theirs.low, theirs.high), rtol=1e-12)


def test_ratio_of_means():
    np.testing.assert_allclose(stats.ratio_of_means_interval(3 * SCORES, SCORES), (3, 3), rtol=1e-12)
    lo, hi = stats.ratio_of_means_interval(SCORES, SCORES[::-1], resamples=4000)
    back_lo, back_hi = stats.ratio_of_means_interval(SCORES[::-1], SCORES, resamples=4000)
    np.testing.assert_allclose((lo, hi), (1 / back_hi, 1 / back_lo), rtol=0.01)


def test_a_ratio_with_a_zero_below_is_unknown_or_unbounded():
    zeros, ones = np.zeros(10), np.ones(10)
    assert all(math.isnan(end) for end in stats.ratio_of_means_interval(ones, zeros))
    assert all(math.isnan(end) for end in stats.ratio_of_means_interval(zeros, zeros))
    # One prompt in ten falls below: about a third of the resamples miss it, so nothing bounds the ratio
    # above.
    one_falls = np.eye(10)[0]
    lo, hi = stats.ratio_of_means_interval(ones, one_falls)
    assert 1 < lo < 10 and hi == math.inf
    # The same prompt above and below: every defined resample has ratio 1, every other is 0/0 and widens both
    # ends.
    assert stats.ratio_of_means_interval(one_falls, one_falls) == (0.0, math.inf)
    with pytest.raises(InputError, match="negative"):
        stats.ratio_of_means_interval(ones, -ones)


def test_mcnemar_agrees_with_the_binomial_sum():
    a = np.array([True] * 9 + [False] * 2 + [True] * 5 + [False] * 8)
    b = np.array([False] * 9 + [True] * 2 + [True] * 5 + [False] * 8)
    by_hand = 2 * sum(math.comb(11, k) for k in range(3)) / 2**11
    assert stats.mcnemar_exact(a, b) == pytest.approx(by_hand, rel=1e-12)
    assert stats.mcnemar_exact(b, a) == pytest.approx(by_hand, rel=1e-12)
    assert stats.mcnemar_exact(a, a) == 1.0
    with pytest.raises(InputError, match="booleans"):
        stats.mcnemar_exact([0.5, 1], [0, 1])


def test_simultaneous_intervals_hold_together():
    assert stats.simultaneous_confidence(0.95, 1) == pytest.approx(0.95)
    # Over independent cells with one true rate, all intervals cover it at least as often as promised.
    rng, cells, n, rate = np.random.default_rng(0), 6, 60, 0.4
    confidence = stats.simultaneous_confidence(0.95, cells)
    counts = rng.binomial(n, rate, size=(2000, cells))
    ends = np.array([stats.wilson_interval(k, n, confidence) for k in range(n + 1)])[counts]
    covered = ((ends[..., 0] <= rate) & (rate <= ends[..., 1])).all(axis=1).mean()
    assert covered >= 0.95
    with pytest.raises(InputError, match="at least 1"):
        stats.simultaneous_confidence(0.95, 0)


def test_wrong_shapes_and_names_are_refused():
    with pytest.raises(InputError, match="same prompts"):
        stats.paired_difference_interval([1, 2, 3], [1, 2], "mean")
    with pytest.raises(InputError, match="statistic"):
        stats.bootstrap_interval(SCORES, "mode")
    with pytest.raises(InputError, match="shape"):
        stats.bootstrap_interval(SCORES.reshape(2, 12), "mean")
    with pytest.raises(InputError, match="resamples"):
        stats.bootstrap_interval(SCORES, "mean", resamples=0)


def test_weights_are_the_draws_of_the_rows():
    rows = stats.resampled_rows(24, 50, 6)
    np.testing.assert_allclose(stats.resampled_weights(24, 50, 6) @ SCORES, SCORES[rows].mean(axis=1), rtol=1e-12)
    one, other = np.random.default_rng(6), np.random.default_rng(6)
    np.testing.assert_array_equal(stats.resampled_rows(24, 50, one), stats.resampled_rows(24, 50, other))
    assert (stats.resampled_rows(24, 50, one) != rows).any(), "a generator goes on"


def test_the_spread_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal([3.0, -1.0], [1.0, 4.0], size=(400, 2))
    draws = stats.resampled_weights(400, 4000, 1) @ values
    lo, hi = stats.spread_interval(values.mean(axis=0), draws)
    np.testing.assert_allclose((lo + hi) / 2, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose((hi - lo) / 2, 1.959964 * values.std(axis=0) / 20, rtol=0.05)
    assert np.isnan(stats.spread_interval(0.5, [0.5])).all(), "one draw has no spread"
    assert np.isnan(stats.spread_interval(0.5, [0.5, math.inf])).all()
    with pytest.raises(InputError, match="confidence"):
        stats.spread_interval(0.5, [0.5, 0.6], 95)


@pytest.mark.parametrize("successes, n", [(0, 24), (1, 24), (13, 24), (24, 24), (1, 1)])
def test_clopper_pearson_agrees_with_scipy(successes, n):
    theirs = scipy.stats.binomtest(successes, n).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose(stats.clopper_pearson(successes, n), (theirs.low, theirs.high), atol=1e-12)
    # Both ends: the share under which so many, or so few, are seen once in twenty.
    lo, hi = stats.clopper_pearson(successes, n, tail=0.05)
    if successes:
        assert scipy.stats.binom.sf(successes - 1, n, lo) == pytest.approx(0.05)
    if successes < n:
        assert scipy.stats.binom.cdf(successes, n, hi) == pytest.approx(0.05)


def test_clopper_pearson_takes_an_effective_n_and_says_zero_events_in_closed_form():
    assert stats.clopper_pearson(0, 12.6, tail=0.05)[1] == pytest.approx(1 - 0.05 ** (1 / 12.6))
    assert stats.clopper_pearson(12.6, 12.6, tail=0.05) == pytest.approx((0.05 ** (1 / 12.6), 1.0))
    few, many = stats.clopper_pearson(3.2, 12.8), stats.clopper_pearson(6, 24)
    assert few[0] < many[0] < 0.25 < many[1] < few[1]
    assert all(math.isnan(end) for end in stats.clopper_pearson(0, 0))
    for arguments in ((-1, 3), (4, 3)):
        with pytest.raises(InputError, match="between 0 and n"):
            stats.clopper_pearson(*arguments)
    with pytest.raises(InputError, match="tail"):
        stats.clopper_pearson(1, 3, tail=0)
