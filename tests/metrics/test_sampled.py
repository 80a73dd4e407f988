"""At least one of m drawn answers, and how often one is: by hand, and by counting coverage."""

import math

import numpy as np
import pytest
import scipy.stats

from latent_audit.errors import InputError
from latent_audit.metrics import sampled


def test_by_hand():
    found = sampled.summarise([0, 1, 4, 2], samples=4)
    there = scipy.stats.binomtest(3, 4).proportion_ci(method="exact")
    assert (found["sampled_asr"], found["sampled_rate"]) == (0.75, 7 / 16)
    assert (found["sampled_asr_lo"], found["sampled_asr_hi"]) == pytest.approx((there.low, there.high))
    assert found["sampled_rate_lo"] <= found["sampled_rate"] <= found["sampled_rate_hi"] and found["samples"] == 4
    assert tuple(found) == sampled.COLUMNS


def test_prompts_that_are_all_alike_keep_an_interval():
    none, every, same = (sampled.summarise([k] * 24, samples=5) for k in (0, 5, 2))
    assert none["sampled_rate_hi"] == none["sampled_asr_hi"] == pytest.approx(1 - 0.025 ** (1 / 24))
    assert every["sampled_rate_lo"] == pytest.approx(0.025 ** (1 / 24)) and every["sampled_rate_hi"] == 1.0
    assert (same["sampled_rate_lo"], same["sampled_rate_hi"]) == (0.0, 1.0)


def test_one_sample_is_the_share_itself():
    found = sampled.summarise([1, 0, 0, 1, 1], samples=1)
    assert found["sampled_asr"] == found["sampled_rate"] == 0.6


def test_the_interval_of_at_least_one_covers():
    rng, m, n = np.random.default_rng(0), 5, 24
    # Prompts differ: most never give way, some often do.
    rates = rng.beta(0.3, 2.0, (600, n))
    truth = 1 - (1 - scipy.stats.beta(0.3, 2.0).rvs(200_000, random_state=1)) ** m
    found = [sampled.summarise(rng.binomial(m, row), m, resamples=10) for row in rates]
    inside = np.mean([one["sampled_asr_lo"] <= truth.mean() <= one["sampled_asr_hi"] for one in found])
    assert inside >= 0.94


def test_errors_and_nothing():
    assert math.isnan(sampled.summarise([], samples=3)["sampled_asr"])
    for counts, samples in (([4], 3), ([-1], 3), ([0], 0), ([[0]], 3)):
        with pytest.raises(InputError):
            sampled.summarise(np.array(counts), samples)
