"""Projections and the probe's shift against constructed states, plain loops and scikit-learn."""

import math

import numpy as np
import pytest

from latent_audit.errors import InputError
from latent_audit.metrics import geometry, probe, stats


def states(seed, n=20, num_states=4, width=8):
    """States of base and of a harmful pole on the same prompts, float32 [n, S, D]."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(n, num_states, width))
    harmful = base + rng.normal(size=(num_states, width)) + 0.5 * rng.normal(size=base.shape)
    return base.astype(np.float32), harmful.astype(np.float32)


def projection(condition, base, harmful):
    """The projection of means [S, D], taken as the states of one prompt."""
    return geometry.projection_interval(*(means[None] for means in (condition, base, harmful)), resamples=1).value


def test_projection_of_constructed_means():
    base, harmful = (kind.mean(axis=0) for kind in states(0))
    np.testing.assert_array_equal(projection(base, base, harmful), np.zeros(4))
    np.testing.assert_allclose(projection(harmful, base, harmful), np.ones(4), rtol=1e-12)
    along = harmful.astype(np.float64) - base
    across = np.roll(along, 1, axis=-1)
    across -= along * ((across * along).sum(-1) / (along**2).sum(-1))[:, None]
    shares = np.array([0.25, -1.5, 0.0, 2.0])
    np.testing.assert_allclose(
        projection(base + shares[:, None] * along + 7 * across, base, harmful), shares, atol=1e-6
    )


def test_a_common_rotation_scale_and_shift_change_nothing():
    base, harmful = (kind.mean(axis=0).astype(np.float64) for kind in states(1))
    condition = np.random.default_rng(2).normal(size=base.shape)
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(8, 8)))
    np.testing.assert_allclose(
        projection(*(3 * part @ turn - 5 for part in (condition, base, harmful))),
        projection(condition, base, harmful),
        rtol=1e-9,
    )


def test_equal_poles_are_unknown_at_that_state_only():
    base, harmful = states(2)
    harmful[:, 0] = base[:, 0]
    found = geometry.projection_interval(harmful, base, harmful, resamples=30)
    for part in (found.value, found.lo, found.hi):
        np.testing.assert_array_equal(np.isnan(part), [True, False, False, False])


def test_interval_draws_prompts_once_for_all_three():
    base, harmful = states(3)
    # Prompts differ wildly, the share they have moved by does not: so neither does any resample.
    moved = base + np.float32(0.3) * (harmful - base)
    found = geometry.projection_interval(moved, base, harmful, resamples=50)
    for part in found[:3]:
        np.testing.assert_allclose(part, 0.3, atol=1e-6)
    for condition, share in ((base, 0.0), (harmful, 1.0)):
        np.testing.assert_allclose(
            geometry.projection_interval(condition, base, harmful, resamples=9)[:3], share, atol=1e-12
        )


def test_interval_is_the_spread_of_resampled_projections():
    base, harmful = states(4)
    condition = base + np.random.default_rng(5).normal(0.3, 1.0, size=base.shape).astype(np.float32)
    found = geometry.projection_interval(condition, base, harmful, resamples=40, seed=6, confidence=0.9)

    def by_hand(c, b, h):
        return ((c - b) * (h - b)).sum(axis=1) / ((h - b) ** 2).sum(axis=1)

    draws = [
        by_hand(*(kind[rows].astype(np.float64).mean(axis=0) for kind in (condition, base, harmful)))
        for rows in stats.resampled_rows(20, 40, 6)
    ]
    np.testing.assert_allclose(
        found.value, by_hand(*(kind.mean(axis=0, dtype=np.float64) for kind in (condition, base, harmful))), rtol=1e-9
    )
    half = 1.6448536 * np.std(draws, axis=0, ddof=1)
    np.testing.assert_allclose(found.lo, found.value - half, rtol=1e-6)
    np.testing.assert_allclose(found.hi, found.value + half, rtol=1e-6)
    assert found.n == 20


@pytest.mark.parametrize("width", [8, 400])
def test_interval_is_as_wide_as_fresh_panels_scatter(width):
    values, widths = [], []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        base, to_harmful, to_condition = rng.normal(size=(3, 30, 1, width)) / math.sqrt(width)
        to_harmful[..., 0] += 1
        to_condition[..., 0] += 0.6
        found = geometry.projection_interval(base + to_condition, base, base + to_harmful, resamples=80)
        assert found.lo < found.value < found.hi
        values.append(found.value[0])
        widths.append(found.hi[0] - found.lo[0])
    assert 0.75 < np.mean(widths) / (2 * 1.96 * np.std(values)) < 1.35


def test_one_prompt_has_no_interval():
    base, harmful = states(7, n=1)
    found = geometry.projection_interval(harmful, base, harmful, resamples=5)
    np.testing.assert_allclose(found.value, 1, rtol=1e-12)
    assert np.isnan(found.lo).all() and np.isnan(found.hi).all()


def test_projections_refuse_what_does_not_match():
    base, harmful = states(8)
    for parts in (
        (base, base, harmful[:, :3]),
        (base, base, harmful[:19]),
        (base[0], base[0], harmful[0]),
        (base[:0], base[:0], harmful[:0]),
    ):
        with pytest.raises(InputError, match="all of one shape"):
            geometry.projection_interval(*parts)
    with pytest.raises(InputError, match="resamples"):
        geometry.projection_interval(base, base, harmful, resamples=0)


def features(seed, n=40, width=30):
    """Features of safe and of unsafe texts, of unlike scales; float32 [n, width]."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(size=width))
    safe, unsafe = rng.normal(size=(2, n, width)) * scale + rng.normal(size=width)
    unsafe += 0.8 * scale * rng.normal(size=width)
    return safe.astype(np.float32), unsafe.astype(np.float32)


def mean_logits(fitted, *kinds):
    return [fitted.decision_function(np.asarray(kind, np.float64)).mean() for kind in kinds]


def test_raw_weights_are_the_slope_of_the_logits():
    safe, unsafe = features(0)
    safe[:, 3] = unsafe[:, 3] = 2.0  # a feature that never varies has no scale
    fitted = probe.fit(safe, unsafe)
    weights = probe.raw_weights(fitted)
    assert weights.shape == (30,) and weights.dtype == np.float64 and weights[3] == 0
    there, back = np.random.default_rng(1).normal(size=(2, 5, 30))
    change = fitted.decision_function(there) - fitted.decision_function(back)
    np.testing.assert_allclose((there - back) @ weights, change, rtol=1e-9)


def test_one_offset_for_all_texts():
    safe, unsafe = (kind.astype(np.float64) for kind in features(1))
    fitted = probe.fit(safe, unsafe)
    offset = np.random.default_rng(2).normal(size=30)
    found = geometry.shift_diagnostics(fitted, safe, unsafe, safe + offset, unsafe + offset)
    assert found.offset_match == pytest.approx(1, rel=1e-9) and found.n == 80
    assert found.logit_change_safe == pytest.approx(found.logit_change_unsafe, rel=1e-9)
    axis = unsafe.mean(axis=0) - safe.mean(axis=0)
    cosine = offset @ axis / np.linalg.norm(offset) / np.linalg.norm(axis)
    assert found.axis_cosine == pytest.approx(cosine, rel=1e-9)
    squares = sorted((value**2 for value in offset), reverse=True)
    assert found.largest_share == pytest.approx(sum(squares[:20]) / sum(squares), rel=1e-9)
    three = geometry.shift_diagnostics(fitted, safe, unsafe, safe + offset, unsafe + offset, largest=3)
    assert three.largest_share == pytest.approx(sum(squares[:3]) / sum(squares), rel=1e-9)
    # A constant offset moves the threshold, which an AUROC does not see.
    assert probe.score(fitted, safe + offset, unsafe + offset).auroc == probe.score(fitted, safe, unsafe).auroc


def test_changes_are_those_of_the_mean_logits_and_the_match_is_their_ratio():
    base, model = features(2), features(3)
    fitted = probe.fit(*base)
    found = geometry.shift_diagnostics(fitted, *base, *model)
    changes = np.subtract(mean_logits(fitted, *model), mean_logits(fitted, *base))
    np.testing.assert_allclose((found.logit_change_safe, found.logit_change_unsafe), changes, rtol=1e-6)
    assert found.offset_match == pytest.approx(changes[0] / changes[1], rel=1e-6)
    assert abs(found.offset_match - 1) > 0.1, "an offset that is not common does not match"


def test_only_one_kind_of_text_moved():
    safe, unsafe = features(4)
    fitted = probe.fit(safe, unsafe)
    away = -3 * (unsafe.mean(axis=0) - safe.mean(axis=0))
    moved = geometry.shift_diagnostics(fitted, safe, unsafe, safe, unsafe + away)
    assert moved.offset_match == 0 and moved.logit_change_unsafe < 0
    assert moved.axis_cosine == pytest.approx(-1, abs=1e-6)
    other = geometry.shift_diagnostics(fitted, safe, unsafe, safe + away, unsafe)
    assert math.isnan(other.offset_match) and other.logit_change_safe < 0
    # Together they have drawn closer: opposite changes, negative match.
    closer = geometry.shift_diagnostics(fitted, safe, unsafe, safe - away / 6, unsafe + away / 6)
    assert closer.offset_match == pytest.approx(-1, rel=1e-5)


def test_base_against_itself_is_unknown():
    base = features(5)
    found = geometry.shift_diagnostics(probe.fit(*base), *base, *base)
    assert found.logit_change_safe == found.logit_change_unsafe == 0
    assert all(math.isnan(value) for value in (found.offset_match, found.axis_cosine, found.largest_share))


def test_largest_share_knows_sparse_and_even_shifts():
    safe, unsafe = (kind.astype(np.float64) for kind in features(6))
    fitted = probe.fit(safe, unsafe)
    even, sparse = np.ones(30), np.where(np.arange(30) < 20, 1.0, 0.0)
    shares = [
        geometry.shift_diagnostics(fitted, safe, unsafe, safe + offset, unsafe + offset).largest_share
        for offset in (even, sparse)
    ]
    np.testing.assert_allclose(shares, [20 / 30, 1], rtol=1e-9)


def test_units_of_the_features_do_not_change_the_match():
    base, model = features(7), features(8)
    units = np.exp(np.random.default_rng(9).normal(size=30))
    plain, scaled = (
        geometry.shift_diagnostics(probe.fit(*start), *start, *end)
        for start, end in ((base, model), ([kind * units + 1 for kind in base], [kind * units + 1 for kind in model]))
    )
    np.testing.assert_allclose(scaled[:3], plain[:3], rtol=1e-3)
    assert abs(scaled.largest_share - plain.largest_share) > 1e-3, "raw dimensions have units"


def test_unequal_numbers_of_texts_give_both_kinds_the_same_weight():
    safe, unsafe = features(10)
    fitted = probe.fit(safe, unsafe)
    one, other = np.eye(30)[:2]
    found = geometry.shift_diagnostics(fitted, safe, unsafe[:7], safe + one, unsafe[:7] + other, largest=1)
    assert found.largest_share == pytest.approx(0.5, rel=1e-6) and found.n == 47


def test_shifts_refuse_what_does_not_match():
    safe, unsafe = features(11)
    fitted = probe.fit(safe, unsafe)
    for parts in (
        (safe, unsafe, safe[:9], unsafe),
        (safe, unsafe, safe, unsafe[:, :9]),
        (safe[:0], unsafe, safe[:0], unsafe),
    ):
        with pytest.raises(InputError, match="all of one shape"):
            geometry.shift_diagnostics(fitted, *parts)
    with pytest.raises(InputError, match="9 features of safe texts, 9 of unsafe ones and 30 of the probe"):
        geometry.shift_diagnostics(fitted, *(kind[:, :9] for kind in (safe, unsafe, safe, unsafe)))
    with pytest.raises(InputError, match="largest is 0"):
        geometry.shift_diagnostics(fitted, safe, unsafe, safe, unsafe, largest=0)
