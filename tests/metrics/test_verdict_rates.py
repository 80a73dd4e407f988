"""Wrong labels stay below one in twenty, for prompts on their own and for clusters; docs/method.md section 13."""

import numpy as np
import pytest
import scipy.stats

from latent_audit.metrics import clusters
from tests import verdict_rates

RUNS = 400
# More mistakes than this happen once in a thousand tests if the rate is .05; bounds that ignore clusters make about
# twice as many.
ALLOWED = scipy.stats.binom.isf(0.001, RUNS, 0.05)


@pytest.mark.parametrize("kind", verdict_rates.KINDS)
@pytest.mark.parametrize("n", verdict_rates.SIZES)
@pytest.mark.parametrize("name", verdict_rates.SHARES)
def test_a_wrong_label_is_given_at_most_once_in_twenty(name, n, kind):
    assert verdict_rates.rate(verdict_rates.SHARES[name], n, kind, runs=RUNS) * RUNS <= ALLOWED


@pytest.mark.parametrize("kind", ["exchangeable", "shared"])
def test_equal_radii_are_never_hollow(kind):
    mistake = verdict_rates.RADII["hollow, radii of twin and own alike"]
    assert verdict_rates.rate(mistake, 24, kind, runs=60) <= 0.05


def test_without_the_clusters_the_mistakes_are_too_many(monkeypatch):
    """The simulation sees what it is there to see."""
    monkeypatch.setattr(clusters, "design_effect", lambda *a: 1.0)
    mistake = verdict_rates.SHARES["hollow, true ASR .4999"]
    assert verdict_rates.rate(mistake, 100, "beta", runs=RUNS) * RUNS > ALLOWED


@pytest.mark.parametrize("kind", ["shared", "beta"])
def test_the_simulated_clusters_have_the_correlation_that_is_claimed(kind):
    rng = np.random.default_rng(0)
    outcomes, labels = verdict_rates.clustered_outcomes(rng, 40000, 0.25, kind)
    assert outcomes.mean() == pytest.approx(0.25, abs=0.02)
    assert clusters.intraclass_correlation(outcomes, labels) == pytest.approx(0.3, abs=0.03)


def test_labels_are_reached_where_the_truth_deserves_them():
    """A rule that never speaks makes no mistake: with 48 prompts on their own the clear cases are told."""
    rng = np.random.default_rng(0)
    told = {"robust": 0, "hollow": 0}
    for share, label in ((0.05, "robust"), (0.8, "hollow")):
        for _ in range(100):
            broken, _ = verdict_rates.clustered_outcomes(rng, 48, share, "exchangeable")
            evidence = verdict_rates.evidence_of(verdict_rates.suite_of(broken, None))
            told[label] += verdict_rates.verdict.judge(evidence, rule=verdict_rates.RULE).label == label
    assert min(told.values()) >= 90
