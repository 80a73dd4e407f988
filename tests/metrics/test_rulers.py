"""Nuisance rulers: AUROC against sklearn, what they read by hand, and rows built so that one side alone separates."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from latent_audit.errors import InputError
from latent_audit.metrics import rulers, separation
from latent_audit.metrics.rulers import LENGTH, OPENING, Held, Surface


def surface(length, opening=None):
    return Surface(np.array(length), np.array([7] * len(length) if opening is None else opening))


def auroc(held):
    return roc_auc_score(np.repeat([0, 1], [len(held.safe), len(held.unsafe)]), np.concatenate(held))


def test_what_the_rulers_read_by_hand():
    fit = surface([5, 6, 7], [1, 1, 2]), surface([9, 10], [2, 3])
    found = rulers.read(*fit, surface([4, 8], [1, 9]), surface([11], [2]))
    assert found[LENGTH].safe.tolist() == [4, 8] and found[LENGTH].unsafe.tolist() == [11]
    # Shares with half a count: of 1 among unsafe .5/3, among safe 2.5/4; of 2 1.5/3 and 1.5/4; 9 was never seen.
    np.testing.assert_allclose(found[OPENING].safe, [np.log(0.5 / 3 / (2.5 / 4)), 0.0])
    np.testing.assert_allclose(found[OPENING].unsafe, [np.log(1.5 / 3 / (1.5 / 4))])
    shorter = rulers.read(*fit[::-1], surface([4]), surface([11]))
    assert shorter[LENGTH] == (np.array([-4.0]), np.array([-11.0])), "fitted: unsafe ones are shorter"
    level = rulers.read(surface([3, 5]), surface([4]), surface([1]), surface([9]))
    assert level[LENGTH].safe[0] == level[LENGTH].unsafe[0] == 0


def test_every_fold_is_read_by_rulers_of_the_others():
    safe, unsafe = surface([1, 2, 30, 40], [1, 1, 2, 2]), surface([10, 20, 3, 4], [2, 2, 1, 1])
    dealt = (np.array([0, 0, 1, 1]),) * 2
    found = rulers.read_folds(safe, unsafe, dealt)
    for fold, (held, fit) in enumerate(((slice(0, 2), slice(2, 4)), (slice(2, 4), slice(0, 2)))):
        alone = rulers.read(*(rows.at(fit) for rows in (safe, unsafe)), *(rows.at(held) for rows in (safe, unsafe)))
        for name in (LENGTH, OPENING):
            for one, other in zip(found[name][fold], alone[name], strict=True):
                np.testing.assert_array_equal(one, other)
    # Both halves separate perfectly, in opposite ways: what is learnt on one is wrong on the other.
    score = [Held(np.zeros(2), np.ones(2))] * 2
    assert [one.auroc for one in rulers.compare(score, found).rulers] == [0.0, 0.0]


def test_auroc_is_that_of_sklearn_and_the_difference_is_paired():
    rng = np.random.default_rng(0)
    score = [Held(rng.integers(0, 6, 40).astype(float), rng.integers(2, 8, 30).astype(float)) for _ in range(2)]
    other = [Held(rng.normal(size=40), rng.normal(size=30) + 0.2) for _ in range(2)]
    found = rulers.compare(score, {"other": other, "itself": score}, seed=3)
    assert found.auroc == pytest.approx(np.mean([auroc(held) for held in score]))
    assert found.rulers[0].auroc == pytest.approx(np.mean([auroc(held) for held in other]))
    assert found.rulers[0].difference == pytest.approx(found.auroc - found.rulers[0].auroc)
    assert found.lo < found.auroc < found.hi
    itself = found.rulers[1]
    assert (itself.difference, itself.difference_lo, itself.difference_hi) == (0, 0, 0), "the same rows are drawn"
    wrong = rulers.compare(score, {"wrong": [Held(-held.safe, -held.unsafe) for held in score]}, seed=3).rulers[0]
    assert wrong.auroc == pytest.approx(1 - found.auroc) and wrong.hi < 0.5, "worse than chance"
    assert (wrong.difference, wrong.difference_lo) == pytest.approx((found.auroc - 0.5, found.lo - 0.5))
    assert (itself.lo, itself.hi) == (found.lo, found.hi)
    assert rulers.compare(score, {"other": other}, seed=3).rulers[0] == found.rulers[0]
    wide = rulers.compare(score, {"other": other}, seed=3, confidence=0.99)
    assert wide.rulers[0].difference_lo < found.rulers[0].difference_lo


def test_the_interval_of_a_difference_is_as_wide_as_fresh_rows_scatter():
    def drawn(seed):
        rng = np.random.default_rng(seed)
        safe, unsafe = rng.normal(size=(2, 60, 2)) + np.array([[0, 0], [1.0, 0.6]])[:, None]
        score, other = ([Held(safe[:, k], unsafe[:, k])] for k in (0, 1))
        return rulers.compare(score, {"other": other}, resamples=200, seed=seed).rulers[0]

    found = [drawn(seed) for seed in range(150)]
    spread = np.std([one.difference for one in found])
    width = np.mean([one.difference_hi - one.difference_lo for one in found])
    assert 0.85 < width / (2 * 1.96 * spread) < 1.2


def rows(seed, n=40, *, meaning=0.0, longer=0.0, opening=0.0):
    """States [n, 3, 12] of both kinds apart by `meaning`, lengths by `longer`; a share `opening` begins otherwise."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(2, n, 3, 12))
    states[1, ..., 0] += meaning
    length = rng.integers(10, 20, size=(2, n)) + np.array([[0], [longer]])
    first = rng.integers(0, 3, size=(2, n))
    first[1, rng.random(n) < opening] = 9
    return states, [Surface(*own) for own in zip(length, first, strict=True)]


def compared(states, surfaces):
    found = separation.separation(*states, resamples=2)
    return rulers.compare(found.held, rulers.read_folds(*surfaces, found.dealt))


@pytest.mark.parametrize(
    "made, withheld, ruler",
    [
        # Meaning separates, neither ruler does.
        ({"meaning": 3.0}, False, None),
        # Length separates as well as the states do.
        ({"meaning": 3.0, "longer": 12}, True, LENGTH),
        # Length separates and the states do not.
        ({"longer": 6}, True, LENGTH),
        ({"meaning": 3.0, "opening": 1.0}, True, OPENING),
        # Half of the first tokens give the kind away: the states know more.
        ({"meaning": 4.0, "opening": 0.4}, False, None),
    ],
)
def test_a_score_is_withheld_where_a_ruler_does_as_well(made, withheld, ruler):
    for seed in range(3):
        found = compared(*rows(seed, **made))
        assert found.withheld is withheld, rulers.told(found)
        said = rulers.told(found)
        assert said.startswith("withheld: ") is withheld
        if ruler:
            assert said.startswith(f"withheld: {ruler} alone separates these rows as well (AUROC ")
        if not withheld:
            assert "prompt length alone" in said and "first token alone" in said


def test_scores_of_pure_noise_are_seldom_shown():
    """Where nothing separates, a score that is shown is a false alarm: at most one in 20 of these."""
    shown = sum(not compared(*rows(seed)).withheld for seed in range(100))
    assert shown <= 9


def test_scores_that_know_no_more_than_a_ruler_are_seldom_shown():
    """The same knowledge with noise of its own on both sides: shown in at most about one of 40."""
    shown = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        score, length = ([Held(rng.normal(size=50), rng.normal(size=50) + 1.5)] for _ in range(2))
        level = [Held(np.zeros(50), np.zeros(50))]
        shown += not rulers.compare(score, {LENGTH: length, OPENING: level}, resamples=200, seed=seed).withheld
    assert shown <= 11


def test_told_names_the_better_ruler_and_both_numbers():
    both = [rulers.Against(LENGTH, 0.9, 0.8, 0.95, 0.0, -0.1, 0.1), rulers.Against(OPENING, 0.97, 0.9, 1, 0, -0.1, 0.1)]
    found = rulers.Compared(0.95, 0.9, 0.99, tuple(both))
    numbers = "(AUROC 0.97 (0.90 to 1.00) against 0.95 (0.90 to 0.99))"
    assert rulers.told(found) == f"withheld: first token alone separates these rows as well {numbers}"


def test_bad_rows_are_refused():
    good = [Held(np.zeros(3), np.ones(4))]
    for bad, words in (
        ([Held(np.zeros(3), np.ones(3))], "other rows"),
        (good * 2, "other rows"),
        ([Held(np.zeros(3), np.full(4, np.nan))], "not finite"),
    ):
        with pytest.raises(InputError, match=words):
            rulers.compare(good, {"other": bad})
    for empty in ([], [Held(np.zeros(0), np.ones(2))]):
        with pytest.raises(InputError, match="at least one row"):
            rulers.compare(empty, {})
    with pytest.raises(InputError, match="no row of one kind"):
        rulers.read(surface([]), surface([1]), surface([1]), surface([1]))
    with pytest.raises(InputError, match="resamples"):
        rulers.compare(good, {}, resamples=0)
