"""Ranks and areas against their definitions, pair by pair."""

import doctest
import itertools

import numpy as np
import pytest
import scipy.stats

from latent_audit.errors import InputError
from latent_audit.metrics import rank_agreement
from latent_audit.metrics.rank_agreement import agreement, auc


def pairs_in_order(higher, lower):
    """The share of pairs in order, ties by half: the definition."""
    return np.mean([(a > b) + 0.5 * (a == b) for a in higher for b in lower])


def tau_b(one, other):
    """Kendall's tau-b from the signs of all pairs: the definition."""
    pairs = itertools.combinations(zip(one, other, strict=True), 2)
    signs = [(np.sign(a - b), np.sign(c - d)) for (a, c), (b, d) in pairs]
    first, second = np.array(signs).T
    return (first * second).sum() / np.sqrt((first != 0).sum() * (second != 0).sum())


def test_the_examples_hold():
    assert not doctest.testmod(rank_agreement).failed


@pytest.mark.parametrize("seed", range(3))
def test_an_area_is_its_definition_and_its_interval_mirrors(seed):
    rng = np.random.default_rng(seed)
    higher, lower = rng.integers(2, 8, 9).astype(float), rng.integers(0, 6, 12).astype(float)
    found, mirrored = auc(higher, lower), auc(lower, higher)
    assert found.value == pytest.approx(pairs_in_order(higher, lower))
    assert found == pytest.approx((1 - mirrored.value, 1 - mirrored.hi, 1 - mirrored.lo), abs=1e-6)
    assert 0 < found.lo < found.value < found.hi < 1


def test_the_ends_of_an_area_are_just_not_rejected():
    higher, lower = np.arange(5.0, 15.0), np.arange(0.0, 12.0)
    found, m, n = auc(higher, lower), 10, 12
    for end in (found.lo, found.hi):
        weight = (m + n) / 2 - 1
        variance = end * (1 - end) * (1 + weight * (1 - end) / (2 - end) + weight * end / (1 + end)) / (m * n)
        assert abs(found.value - end) == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-5)


def test_perfect_order_of_few_has_a_wide_interval_and_of_many_a_narrow_one():
    few, many = auc([1.0, 2.0, 3.0], [0.0, -1.0, -2.0]), auc(np.arange(1.0, 101), -np.arange(100.0))
    assert few.value == many.value == few.hi == many.hi == 1.0
    assert few.lo < 0.6 < 0.9 < many.lo < 1


@pytest.mark.slow
def test_an_areas_interval_covers():
    rng, z = np.random.default_rng(0), 1.2
    truth = scipy.stats.norm.cdf(z / np.sqrt(2))
    found = [auc(rng.normal(z, 1, 24), rng.normal(0, 1, 24)) for _ in range(1000)]
    assert np.mean([one.lo <= truth <= one.hi for one in found]) > 0.93


@pytest.mark.parametrize("values", [([], [1.0]), ([1.0], []), ([np.nan], [1.0])])
def test_an_area_of_nothing_is_unknown(values):
    assert np.isnan(auc(*values)).all()


def test_agreement_is_by_ranks_and_its_definition():
    rng = np.random.default_rng(1)
    one, other = rng.integers(0, 6, 30).astype(float), rng.integers(0, 6, 30).astype(float)
    found = agreement(one, other, np.arange(30), resamples=50, seed=0)
    ranks = [scipy.stats.rankdata(values) for values in (one, other)]
    assert found.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert found.kendall == pytest.approx(tau_b(one, other))
    # Any rising change of scale leaves it as it is.
    assert agreement(np.exp(one), 3 * other - 7, np.arange(30), resamples=50, seed=0) == found
    assert (found.n, found.clusters) == (30, 30) and found.spearman_lo < found.spearman < found.spearman_hi


def test_answers_to_one_prompt_are_not_independent():
    rng = np.random.default_rng(2)
    one = rng.normal(size=12)
    other = one + rng.normal(size=12)
    alone = agreement(one, other, np.arange(12), resamples=200, seed=0)
    repeated = agreement(np.tile(one, 5), np.tile(other, 5), np.tile(np.arange(12), 5), resamples=200, seed=0)
    assert (repeated.n, repeated.clusters) == (60, 12)
    assert repeated[2:5] == pytest.approx(alone[2:5], abs=1e-6), "five copies say no more than one"
    taken_apart = agreement(np.tile(one, 5), np.tile(other, 5), np.arange(60), resamples=200, seed=0)
    assert taken_apart.spearman_hi - taken_apart.spearman_lo < 0.7 * (repeated.spearman_hi - repeated.spearman_lo)


def test_many_answers_are_drawn_from_and_constants_have_no_ranks():
    rng = np.random.default_rng(3)
    one = rng.normal(size=2 * rank_agreement.MOST)
    found = agreement(one, one, np.arange(len(one)) % 20, resamples=5, seed=0)
    assert (found.n, found.clusters, found.spearman, found.kendall) == (rank_agreement.MOST, 20, 1.0, 1.0)
    assert np.isnan(agreement(np.zeros(5), np.arange(5), np.arange(5), resamples=5, seed=0)[2:]).all()
    single = agreement([1.0, 2.0, 3.0], [1.0, 3.0, 2.0], [0, 0, 0], resamples=5, seed=0)
    assert single.spearman == pytest.approx(0.5) and np.isnan(single.spearman_lo)


def test_agreement_refuses_what_does_not_fit():
    with pytest.raises(InputError, match="2, 3 scores"):
        agreement([1.0, 2.0], [1.0, 2.0, 3.0], [0, 1], resamples=5, seed=0)
    with pytest.raises(InputError, match="resamples"):
        agreement([1.0], [1.0], [0], resamples=0, seed=0)
