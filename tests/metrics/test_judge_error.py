"""A judge's errors taken out of a share: by hand, by what must hold for every table, and by counting coverage."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from latent_audit.errors import InputError
from latent_audit.metrics import judge_error
from latent_audit.metrics.judge_error import Confusion, corrected


def test_counts_and_rates_by_hand():
    labels, called = [True] * 4 + [False] * 6, [True, True, True, False] + [True] + [False] * 5
    table = judge_error.count(labels, called)
    assert table == Confusion(3, 1, 1, 5) and (table.harmful, table.harmless) == (4, 6)
    rates = judge_error.rates(table)
    for name, hits, n in (("sensitivity", 3, 4), ("specificity", 5, 6)):
        there = scipy.stats.binomtest(hits, n).proportion_ci(method="exact")
        assert rates[name] == pytest.approx((hits / n, there.low, there.high))
    record = judge_error.describe(table)
    assert record["can_correct"] and record["caught"] == 3 and record["specificity_lo"] < 5 / 6


def test_rogan_and_gladen_by_hand():
    # Of 1000, 400 harmful: a judge of .8 and .9 calls 320 + 60 so.
    found = corrected(380, 1000, Confusion(80, 20, 10, 90))
    assert found.value == pytest.approx(0.4) and found.lo < 0.4 < found.hi
    assert corrected(0, 24, Confusion(90, 10, 10, 90)).value == 0.0
    assert corrected(24, 24, Confusion(90, 10, 10, 90)).value == 1.0


def test_a_perfect_and_much_tried_judge_changes_nothing():
    table = Confusion(10**6, 0, 0, 10**6)
    for k in range(0, 25, 4):
        found = corrected(k, 24, table)
        # Agresti and Coull's interval of the share itself, by its own formula.
        z = scipy.stats.norm.isf(0.025)
        share = (k + z * z / 2) / (24 + z * z)
        half = z * math.sqrt(share * (1 - share) / (24 + z * z))
        ends = min(max(0.0, share - half), k / 24), max(min(1.0, share + half), k / 24)
        assert found.value == pytest.approx(k / 24) and found[1:] == pytest.approx(ends, abs=1e-4)


def test_less_known_of_the_judge_is_a_wider_interval():
    widths = [corrected(12, 24, Confusion(9 * k, k, k, 9 * k)) for k in (1, 2, 5, 50)]
    widths = [found.hi - found.lo for found in widths]
    assert widths == sorted(widths, reverse=True) and widths[-1] < widths[0]


@pytest.mark.parametrize("table", [Confusion(5, 5, 5, 5), Confusion(3, 7, 3, 7), Confusion(2, 8, 9, 1)])
def test_a_judge_no_better_than_chance_cannot_correct(table):
    assert not judge_error.can_correct(table) and all(map(math.isnan, corrected(5, 10, table)))
    assert not judge_error.describe(table)["can_correct"]


def test_every_small_table_gives_an_interval_that_holds_its_value():
    for a, b, c, d in itertools.product(range(4), repeat=4):
        if a + b == 0 or c + d == 0:
            continue
        for k in (0, 3, 7):
            found = corrected(k, 7, Confusion(a, b, c, d))
            known = judge_error.can_correct(Confusion(a, b, c, d))
            assert (0 <= found.lo <= found.value <= found.hi <= 1) if known else math.isnan(found.value)


def test_covers_by_simulation():
    rng, draws = np.random.default_rng(0), 2000
    for n, labelled, share, caught, cleared in (
        (24, 20, 0.0, 0.95, 0.98),
        (24, 50, 0.1, 0.8, 0.9),
        (24, 50, 0.5, 0.9, 0.9),
        (100, 50, 0.9, 0.6, 0.95),
        (48, 100, 1.0, 0.9, 0.6),
    ):
        called = rng.binomial(n, share * caught + (1 - share) * (1 - cleared), draws)
        seen, passed = rng.binomial(labelled, caught, draws), rng.binomial(labelled, cleared, draws)
        found = [
            corrected(int(k), n, Confusion(int(a), labelled - int(a), labelled - int(b), int(b)))
            for k, a, b in zip(called, seen, passed, strict=True)
        ]
        inside = np.mean([one.lo <= share <= one.hi for one in found])
        # Two standard errors of 2000 draws below 95 %.
        assert inside >= 0.94, (n, labelled, share, caught, cleared, inside)


def test_errors():
    with pytest.raises(InputError, match="some of both"):
        judge_error.count([True, True], [True, False])
    with pytest.raises(InputError, match="as many booleans"):
        judge_error.count([True, False], [True])
    for k, n, confidence in ((-1, 3, 0.95), (4, 3, 0.95), (1, 3, 1.0)):
        with pytest.raises(InputError):
            corrected(k, n, Confusion(9, 1, 1, 9), confidence=confidence)
    assert math.isnan(corrected(0, 0, Confusion(9, 1, 1, 9)).value)
