"""Rules by thresholds: what is learnt, and verdicts on models and families that did not set the thresholds."""

import numpy as np
import pytest
import scipy.stats

from latent_audit.errors import InputError
from latent_audit.metrics import threshold_rule as rule

SAFE = np.array([True, True, False, False, True, False])
SCORES = np.array([[9.0], [8.0], [2.0], [1.0], [7.0], [4.0]])


def test_a_threshold_lies_in_the_widest_gap_of_fewest_errors():
    assert rule.learn(SCORES, SAFE) == ((5.5,), 0)
    assert rule.learn(SCORES, np.array([True, True, False, True, True, False])) == ((6.0 - 0.5,), 1)
    both = np.column_stack([SCORES, np.full(6, 3.0)])
    assert rule.learn(both, SAFE) == ((5.5, -np.inf), 0), "a score that tells nothing is not asked"
    assert rule.passes(rule.Rule((5.5, -np.inf), 0), [[6, -9], [5.5, 9]]).tolist() == [True, False]


def by_hand(groups):
    passed = []
    for index, group in enumerate(groups):
        rest = np.array([other != group for other in groups])
        passed.append(SCORES[index, 0] > rule.learn(SCORES[rest], SAFE[rest]).thresholds[0])
    return passed


@pytest.mark.parametrize(
    "groups",
    [
        list(range(6)),
        ["a", "a", "a", "b", "b", "b"][::-1],
        [("a", 1), ("a", 2), ("a", 1), ("a", 2), ("a", 1), ("a", 1)],
    ],
)
def test_every_group_is_judged_by_the_others(groups):
    found = rule.leave_out(SCORES, SAFE, groups)
    assert found.passed.tolist() == by_hand(groups)
    assert found.errors == found.missed + found.alarms == (found.passed != SAFE).sum()
    ends = scipy.stats.binomtest(found.errors, 6).proportion_ci(method="wilson")
    assert (found.lo, found.hi) == pytest.approx(tuple(ends), abs=1e-9)


def test_families_apart_show_what_leaving_out_one_model_hides():
    """Each family has a scale of its own: within it a threshold of the neighbours holds, across families none does."""
    safe = np.array([True, True, False, False] * 2)
    scores = np.array([9, 8.9, 8.1, 8, 2, 1.9, 1.1, 1])[:, None]
    families = ["a"] * 4 + ["b"] * 4
    apart = rule.leave_out(scores, safe, families)
    # By b's threshold (1.5) all of a pass; by a's (8.5) none of b does.
    assert (apart.errors, apart.missed, apart.alarms) == (4, 2, 2)
    assert apart.errors > rule.leave_out(scores, safe, range(8)).errors - 1


def test_what_is_learnt_from_is_asked_for_without_the_group():
    asked = []

    def given(group):
        asked.append(group)
        learnt = SCORES + 100 * (group == "b")
        learnt[[one == group for one in "abbaab"]] = -1e9
        return learnt

    found = rule.leave_out(SCORES, SAFE, list("abbaab"), given=given)
    assert asked == ["a", "b"], "once for each"
    # Learnt from a's models 100 higher, nothing of b passes; what stands in the rows of the group itself is not read.
    plain = rule.leave_out(SCORES, SAFE, list("abbaab"))
    assert not found.passed[[1, 2, 5]].any() and plain.passed[[1, 2, 5]].any()
    assert found.passed[[0, 3, 4]].tolist() == plain.passed[[0, 3, 4]].tolist()


def test_one_kind_alone_teaches_nothing():
    with pytest.raises(InputError, match="at least one of each"):
        rule.leave_out(SCORES, SAFE, ["a"] * 6)
    with pytest.raises(InputError, match="expected at least one of each"):
        rule.leave_out(SCORES, SAFE, ["s" if one else "u" for one in SAFE])
    with pytest.raises(InputError, match="finite"):
        rule.learn(SCORES * np.nan, SAFE)
