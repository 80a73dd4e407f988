"""Separation scores against plain loops, closed forms for Gaussian states and fresh panels."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from latent_audit.errors import InputError
from latent_audit.metrics import separation as metric


def gaussian(seed, n, *, num_layers=5, width=6, apart=(0, 0, 1, 3, 2, 4)):
    """Unit Gaussian states of both kinds, `apart` on one axis of each state; float32 [n, S, D]."""
    rng = np.random.default_rng(seed)
    safe, unsafe = rng.normal(size=(2, n, num_layers + 1, width))
    unsafe[:, :, 0] += apart
    return safe.astype(np.float32), unsafe.astype(np.float32)


def score(fit_safe, fit_unsafe, safe, unsafe):
    """One state's score by the formula: direction from the first two, projections of the last two."""
    direction = fit_unsafe.mean(axis=0) - fit_safe.mean(axis=0)
    direction /= np.linalg.norm(direction)
    safe, unsafe = safe @ direction, unsafe @ direction
    return (unsafe.mean() - safe.mean()) / np.sqrt((unsafe.std() ** 2 + safe.std() ** 2) / 2)


def test_middle_states_by_hand():
    assert list(metric.middle_states(5)) == [2, 3, 4]
    assert list(metric.middle_states(26)) == list(range(10, 22))  # 10.4 and 20.8
    assert list(metric.middle_states(28)) == list(range(11, 23))  # 11.2 and 22.4
    assert list(metric.middle_states(1)) == [1], "never the embedding"
    assert list(metric.middle_states(2)) == [1, 2]
    assert list(metric.middle_states(2, first=0.9, last=0.9)) == [2]


def test_middle_states_round_half_to_even():
    assert list(metric.middle_states(5, first=0.5, last=0.5)) == [2]
    assert list(metric.middle_states(7, first=0.5, last=0.5)) == [4]
    for layers in range(1, 200):
        low, high = Fraction(2, 5) * layers, Fraction(4, 5) * layers
        assert Fraction(1, 2) not in (low % 1, high % 1), "a tie would have to be documented"
        states = metric.middle_states(layers)
        assert (states[0], states[-1]) == (max(1, round(low)), max(1, round(high))) and states[-1] <= layers


def test_plain_score_is_the_formula():
    safe, unsafe = gaussian(0, 30)
    unsafe = unsafe[:23]
    found = metric.separation(safe, unsafe, resamples=20)
    by_hand = [score(*[kind[:, s].astype(np.float64) for kind in (safe, unsafe)] * 2) for s in (2, 3, 4)]
    assert found.states == range(2, 5)
    np.testing.assert_allclose(found.plain.profile, by_hand, rtol=1e-10)
    assert found.plain.value == found.plain.profile.max() and found.plain.chosen == (2 + np.argmax(by_hand),) == (3,)
    assert (found.n_safe, found.n_unsafe, len(found.held)) == (30, 23, 2)


def test_crossfitted_score_is_the_formula_on_some_halves():
    # Of all ways to halve four prompts of each kind, exactly the one dealt must give the score.
    safe, unsafe = gaussian(1, 4, num_layers=1, apart=(0, 2))
    halves = [(list(half), [i for i in range(4) if i not in half]) for half in itertools.combinations(range(4), 2)]
    possible = []
    for (a, b), (c, d) in itertools.product(halves, halves):
        parts = (safe[a, 1], unsafe[c, 1]), (safe[b, 1], unsafe[d, 1])
        there, back = (score(*fit, *held) for fit, held in (parts, parts[::-1]))
        possible.append((there + back) / 2)
    found = {seed: metric.separation(safe, unsafe, resamples=2, seed=seed).crossfitted.value for seed in range(6)}
    for value in found.values():
        assert np.isclose(value, possible, rtol=1e-4).any()
    assert len({round(value, 6) for value in found.values()}) > 1, "the seed deals"


def test_direction_and_state_of_a_fold_come_from_the_other_fold():
    safe, unsafe = gaussian(11, 24, apart=(0, 0, 1.0, 1.1, 1.2, 0))
    found = metric.separation(safe, unsafe, resamples=2, seed=3)
    values, best_held = [], []
    for fold, chosen in enumerate(found.crossfitted.chosen):
        held = [rows[dealt == fold].astype(np.float64) for rows, dealt in zip((safe, unsafe), found.dealt, strict=True)]
        fit = [rows[dealt != fold].astype(np.float64) for rows, dealt in zip((safe, unsafe), found.dealt, strict=True)]
        inside = [score(*[rows[:, s] for rows in fit] * 2) for s in found.states]
        assert chosen == found.states[int(np.argmax(inside))]
        of_states = [score(*[rows[:, s] for rows in (*fit, *held)]) for s in found.states]
        values.append(of_states[found.states.index(chosen)])
        best_held.append(max(of_states))
        direction = fit[1][:, chosen].mean(axis=0) - fit[0][:, chosen].mean(axis=0)
        for rows, read in zip(held, found.held[fold], strict=True):
            projected = rows[:, chosen] @ direction
            # Projections are known up to a shift common to all.
            np.testing.assert_allclose(np.diff(read), np.diff(projected), rtol=1e-6, atol=1e-8)
    assert found.crossfitted.value == pytest.approx(np.mean(values))
    assert [sorted(np.unique(own)) for own in found.dealt] == [[0, 1]] * 2


def test_choosing_among_states_does_not_flatter_the_cross_fitted_score():
    """24 states of pure noise: the best of them on the scored prompts lies well above 0, the score does not."""
    noise = np.random.default_rng(12).normal(size=(40, 2, 20, 61, 3))
    found = [metric.separation(*states, resamples=2, seed=seed) for seed, states in enumerate(noise)]
    values = np.array([one.crossfitted.value for one in found])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values)) + 1e-9
    assert np.mean([one.crossfitted.profile.max() for one in found]) > 0.4


def test_gaussian_classes_score_their_distance():
    # Distance 3 in units of the spread; the spread across the axis does not count.
    rng = np.random.default_rng(2)
    states = rng.normal(size=(2, 1000, 2, 3)) * [2.0, 1.0, 5.0]
    states[1, :, :, 0] += 6.0
    found = metric.separation(*states, resamples=50)
    for one in (found.plain, found.crossfitted):
        assert one.value == pytest.approx(3.0, abs=0.15) and one.lo < 3.0 < one.hi
    # An oblique axis: |d|^2 / sqrt(d' C d) for means d apart and covariance C.
    states[1, :, :, 1] += 1.0
    apart, covariance = np.array([6.0, 1.0, 0.0]), np.diag([4.0, 1.0, 25.0])
    closed = apart @ apart / np.sqrt(apart @ covariance @ apart)
    assert metric.separation(*states, resamples=2).plain.value == pytest.approx(closed, abs=0.15)


def test_plain_flatters_where_nothing_separates_and_crossfitted_does_not():
    n, width = 50, 200
    states = np.random.default_rng(3).normal(size=(2, n, 2, width))
    found = metric.separation(*states, resamples=100)
    assert found.plain.value == pytest.approx(np.sqrt(2 * width / n), rel=0.15)
    assert abs(found.crossfitted.value) < 0.6 and found.crossfitted.lo < 0 < found.crossfitted.hi


@pytest.mark.parametrize("width", [5, 80])
def test_interval_is_as_wide_as_fresh_panels_scatter(width):
    panels = [
        metric.separation(*gaussian(seed, 40, num_layers=2, width=width, apart=(0, 3, 3)), resamples=50)
        for seed in range(50)
    ]
    for kind in ("plain", "crossfitted"):
        values, lo, hi = np.array([getattr(panel, kind)[:3] for panel in panels]).T
        assert ((lo < values) & (values < hi)).all()
        assert 0.75 < (hi - lo).mean() / (2 * 1.96 * values.std()) < 1.5


def test_rotation_scale_and_shift_change_nothing():
    safe, unsafe = (states.astype(np.float64) for states in gaussian(4, 20))
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))
    there = metric.separation(safe, unsafe, resamples=50)
    moved = metric.separation(*(3 * states @ turn + 100 for states in (safe, unsafe)), resamples=50)
    for one, other in zip(there[:2], moved[:2], strict=True):
        np.testing.assert_allclose(other.profile, one.profile, rtol=1e-8)
        np.testing.assert_allclose(other[:3], one[:3], rtol=1e-8)
        assert other.chosen == one.chosen


def test_a_massive_dimension_common_to_all_changes_nothing():
    safe, unsafe = (states.astype(np.float64) for states in gaussian(4, 20))
    far = np.eye(6)[5] * 1e5
    plain, moved = (metric.separation(safe + far * size, unsafe + far * size, resamples=20).plain for size in (0, 1))
    np.testing.assert_allclose(moved[:3], plain[:3], rtol=1e-8)


def test_resamples_keep_the_number_of_each_kind():
    # Drawn from the pool, some of 1000 resamples would hold none of the four, and the interval would be unknown.
    safe, unsafe = gaussian(10, 40)
    found = metric.separation(safe[:4], unsafe)
    assert np.isfinite([found.plain.lo, found.plain.hi, found.crossfitted.lo, found.crossfitted.hi]).all()


def test_only_the_middle_states_count():
    safe, unsafe = gaussian(5, 20)
    far = unsafe.copy()
    far[:, [0, 1, 5]] += 50
    near, moved = (metric.separation(safe, kind, resamples=10) for kind in (unsafe, far))
    assert near.plain[:4] == moved.plain[:4] and near.crossfitted[:4] == moved.crossfitted[:4]


def test_seed_fixes_everything():
    safe, unsafe = gaussian(6, 12)
    first, again, other = (metric.separation(safe, unsafe, resamples=20, seed=seed) for seed in (1, 1, 2))
    for name in ("plain", "crossfitted"):
        assert getattr(first, name)[:4] == getattr(again, name)[:4] != getattr(other, name)[:4]
    assert first.plain.value == other.plain.value
    wide = metric.separation(safe, unsafe, resamples=20, seed=1, confidence=0.99)
    assert wide.plain.lo < first.plain.lo and wide.plain.hi > first.plain.hi


def test_one_resample_gives_no_interval():
    found = metric.separation(*gaussian(6, 12), resamples=1)
    assert np.isnan([found.plain.lo, found.plain.hi, found.crossfitted.lo]).all() and found.plain.value > 1


def test_a_direction_of_length_zero_names_its_layer():
    safe, unsafe = gaussian(7, 9)
    # One vector for everybody, of which means over 9 and 7 rows differ by rounding.
    for states in (safe, unsafe):
        states[:, 3] = np.random.default_rng(0).normal(size=6)
    with pytest.raises(InputError, match="difference of means of L2 is zero"):
        metric.separation(safe, unsafe[:7])
    safe[:, 3], unsafe[:, 3] = safe[:, 2], safe[:, 2]
    with pytest.raises(InputError, match="difference of means of L2 is zero"):
        metric.separation(safe, unsafe)


def test_a_zero_embedding_difference_is_none_of_its_business():
    safe, unsafe = gaussian(8, 9)
    safe[:, 0] = unsafe[:, 0] = 1.0
    assert metric.separation(safe, unsafe, resamples=2).plain.value > 1


def test_bad_input_is_refused():
    safe, unsafe = gaussian(9, 6)
    for one, other in (
        (safe[0], unsafe[0]),
        (safe, unsafe[:, :3]),
        (safe[:, :1], unsafe[:, :1]),
        (safe[..., :2], unsafe),
    ):
        with pytest.raises(InputError, match="expected states"):
            metric.separation(one, other)
    with pytest.raises(InputError, match="folds is 1"):
        metric.separation(safe, unsafe, folds=1)
    for one, other in ((safe, unsafe[:3]), (safe[:0], unsafe)):
        with pytest.raises(InputError, match="two of each kind"):
            metric.separation(one, other)
    with pytest.raises(InputError, match="resamples"):
        metric.separation(safe, unsafe, resamples=0)
    unsafe[2, 4, 1] = np.inf
    with pytest.raises(InputError, match="L3 are not all finite"):
        metric.separation(safe, unsafe)
    for fractions in ({"first": 0.9}, {"first": -0.1}, {"last": 1.1}):
        with pytest.raises(InputError, match="fractions"):
            metric.middle_states(5, **fractions)
    with pytest.raises(InputError, match="at least one layer"):
        metric.middle_states(0)
