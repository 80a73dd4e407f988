"""Directions, cosines, windows and scores on constructed states and profiles, where the answers are known."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from latent_audit.errors import InputError
from latent_audit.metrics import safevec

RNG = np.random.default_rng(5)
N, L, D = 6, 5, 8


def states(seed=0, n=N, layers=L, width=D):
    return np.random.default_rng(seed).normal(size=(n, layers, width)).astype(np.float32)


def profile_of(gap):
    gap = np.asarray(gap, float)
    return safevec.Profile(-0.25 * gap, 0.75 * gap, gap, 0.25 * gap)


def gaps(layers, low, **at):
    """`low` everywhere, and a value on single layers or runs: L12=.5 or L12_15=.5 (inclusive)."""
    gap = np.full(layers, float(low))
    for name, value in at.items():
        first, *last = (int(part) for part in name[1:].split("_"))
        gap[first : (last[0] if last else first) + 1] = value
    return gap


# Directions


def directions_of(unsafe, safe, **options):
    """Directions of the means of states [N, L, D]."""
    return safevec.directions_from_means(*(part.mean(axis=0, dtype=np.float64) for part in (unsafe, safe)), **options)


def test_a_planted_direction_is_found_on_every_layer_and_has_length_one():
    planted = RNG.normal(size=(L, D))
    shared = states(1)
    unsafe = np.concatenate([shared, shared]) + np.float32(3) * planted.astype(np.float32)
    found = directions_of(unsafe, shared)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, planted / np.linalg.norm(planted, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-7)
    np.testing.assert_allclose(directions_of(shared, unsafe), -found, atol=1e-6)


def test_the_constant_beside_the_norm_is_the_documented_one():
    # ||r|| = 1e-8 beside a constant of 1e-8: half the unit length.
    found = safevec.directions_from_means([[1e-8, 0.0]], [[0.0, 0.0]])
    np.testing.assert_allclose(found, [[0.5, 0]], rtol=1e-9)


def test_a_layer_without_direction_is_an_error_only_where_it_is_needed():
    safe, unsafe = states(4, layers=8), states(5, layers=8)
    unsafe[:, 1] = safe[:, 1] = 0.1
    unsafe[:, 5] = safe[:, 5]
    # Of 8 layers the rule looks at 4, 5 and 6.
    with pytest.raises(InputError, match="no refusal direction on L5:"):
        directions_of(unsafe, safe)
    with pytest.raises(InputError, match="on L1, L5:"):
        directions_of(unsafe, safe, layers=range(8))
    found = directions_of(unsafe, safe, layers=[2, 3])
    assert not found[[1, 5]].any() and found[[0, 2, 3, 4, 6, 7]].any(axis=1).all()
    # What has no direction has no cosine, no gap, and no place in a window given by hand.
    table = safevec.cosines(unsafe, found)
    assert not table[:, [1, 5]].any() and table[:, 2].all()
    flat = safevec.profile(safevec.cosines(safe, found), table)
    assert flat.gap[1] == 0
    with pytest.raises(InputError, match="window 4-6 holds L5"):
        safevec.choose_window(flat, manual=(4, 6))
    assert safevec.choose_window(flat, manual=(2, 4)).stop == 5


def test_rounding_of_float32_states_is_no_direction():
    safe = np.abs(states(6)) + 1
    noisy = safe * np.float32(1 + 2e-7)
    with pytest.raises(InputError, match="no refusal direction on L2, L3:"):
        directions_of(noisy, safe)
    assert directions_of(safe * np.float32(1 + 1e-4), safe).all()


@pytest.mark.parametrize(
    "unsafe, safe, message",
    [
        (np.zeros((0, D)), np.zeros((0, D)), "expected one shape \\[layers, width\\]"),
        (states()[0], states(width=D + 1)[0], "mean states of shapes"),
        (states(), states(), "mean states of shapes"),
        (np.where(np.arange(D) == 3, np.nan, states()[0]), states()[0], "index \\(0, 3\\) is not finite"),
    ],
)
def test_bad_means_are_refused(unsafe, safe, message):
    with pytest.raises(InputError, match=message):
        safevec.directions_from_means(unsafe, safe)


def test_bad_states_are_refused():
    for bad, message in ((states(n=0), "states of shape"), (states()[0], "expected \\[prompts, layers, width\\]")):
        with pytest.raises(InputError, match=message):
            safevec.cosines(bad, states()[0])


def test_random_directions_are_isotropic_units_fixed_by_the_seed():
    found = safevec.random_directions(3, 400, 16)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(found, safevec.random_directions(3, 400, 16))
    assert np.abs(found - safevec.random_directions(4, 400, 16)).max() > 0.1
    # Second moment of an isotropic unit vector: identity / D.
    np.testing.assert_allclose(found.T @ found / 400, np.eye(16) / 16, atol=0.02)


# Cosines


def test_cosines_are_those_of_the_angles_that_were_built():
    angles = RNG.uniform(0, math.pi, size=(N, L))
    frame = np.linalg.qr(RNG.normal(size=(L, D, D)))[0]
    lengths = RNG.uniform(0.1, 100, size=(N, L, 1))
    built = lengths * (np.cos(angles)[..., None] * frame[:, 0] + np.sin(angles)[..., None] * frame[:, 1])
    found = safevec.cosines(built.astype(np.float32), frame[:, 0])
    assert found.shape == (N, L) and found.dtype == np.float64
    np.testing.assert_allclose(found, np.cos(angles), atol=1e-6)
    # Neither the length of a direction nor that of a state matters.
    np.testing.assert_allclose(safevec.cosines(built, 7 * frame[:, 0]), np.cos(angles), atol=1e-12)


def test_cosines_do_not_depend_on_a_rotation_or_on_the_batch():
    h, r = states(7), states(8)[0]
    turn = np.linalg.qr(RNG.normal(size=(D, D)))[0]
    whole = safevec.cosines(h, r)
    np.testing.assert_allclose(safevec.cosines(h @ turn, r @ turn), whole, atol=1e-12)
    np.testing.assert_allclose(
        np.concatenate([safevec.cosines(h[:1], r), safevec.cosines(h[1:], r)]), whole, atol=1e-14
    )
    np.testing.assert_allclose(safevec.cosines(jnp.asarray(h), r), whole, atol=1e-14)
    np.testing.assert_allclose(safevec.cosines(jnp.asarray(h, jnp.bfloat16), r), whole, atol=0.02)


def test_centring_removes_what_all_states_share():
    h, r = states(9), states(10)[0]
    offset = (RNG.normal(size=(L, D)) * 100).astype(np.float32)
    np.testing.assert_allclose(safevec.centred_cosines(h + offset, r, offset), safevec.cosines(h, r), atol=1e-4)
    assert np.abs(safevec.cosines(h + offset, r) - safevec.cosines(h, r)).max() > 0.1
    np.testing.assert_array_equal(safevec.centred_cosines(h, r, np.zeros((L, D))), safevec.cosines(h, r))


def test_a_state_without_a_cosine_is_refused():
    h, r = states(11), states(12)[0]
    h[4, 2] = 0
    with pytest.raises(InputError, match="prompt 4 on L2 is zero"):
        safevec.cosines(h, r)
    r[2] = 0
    assert safevec.cosines(h, r)[4, 2] == 0, "no direction, so that nothing was to be measured"
    with pytest.raises(InputError, match="prompt 1 on L0"):
        safevec.centred_cosines(h, r, np.where(np.arange(L)[:, None] == 0, h[1], 0))
    with pytest.raises(InputError, match="expected the same"):
        safevec.cosines(h, r[:-1])
    with pytest.raises(InputError, match="centre of \\(8,\\)"):
        safevec.centred_cosines(h, r, r[0])
    with pytest.raises(InputError, match="directions: the value at index"):
        safevec.cosines(h, np.full((L, D), np.inf))


# Profile and window


def test_profile_by_hand():
    found = safevec.profile([[0.1, -0.4], [0.3, -0.2]], [[0.5, 0.0], [0.7, 0.1], [0.6, -0.1]])
    np.testing.assert_allclose(found.m_safe, [0.2, -0.3])
    np.testing.assert_allclose(found.m_unsafe, [0.6, 0.0], atol=1e-15)
    np.testing.assert_allclose(found.gap, [0.4, 0.3])
    np.testing.assert_allclose(found.q, [-0.2, 0.3])
    with pytest.raises(InputError, match="2 and of 3 layers"):
        safevec.profile(np.zeros((4, 2)), np.zeros((4, 3)))
    with pytest.raises(InputError, match="between -1 and 1"):
        safevec.profile([[1.1]], [[0.2]])


@pytest.mark.parametrize(
    "layers, candidates",
    [(1, [0]), (2, [1]), (3, [1]), (4, [2]), (5, [2, 3]), (6, [3, 4]), (8, [4, 5, 6]), (32, list(range(16, 31)))],
)
def test_candidate_layers(layers, candidates):
    assert list(safevec.candidate_layers(layers)) == candidates


@pytest.mark.parametrize("layers, first, last", [(32, 22, 30), (34, 27, 29), (28, 22, 26)])
def test_a_plateau_is_found_exactly(layers, first, last):
    # Where the authors of arXiv 2606.25750 placed theirs.
    found = safevec.choose_window(profile_of(gaps(layers, 0.1, **{f"L{first}_{last}": 0.5})))
    assert (found.start, found.stop, found.relaxations) == (first, last + 1, ())
    assert "0.5000" in found.reason


# 20 layers: candidates 10 to 18, widths 3 to 6.
@pytest.mark.parametrize(
    "gap, window",
    [
        (
            gaps(20, 0.1, L5=0.9, L9=0.9, L19=0.9, L12_15=0.5),
            (12, 16),
        ),  # layers outside the candidates count for nothing
        (gaps(20, 0.5), (10, 16)),  # all tie: the widest, then the earliest
        (gaps(20, 0.1, L10_12=0.5, L14_17=0.5), (14, 18)),  # the wider plateau, although later
        (gaps(20, 0.1, L10_12=0.5, L14_16=0.5), (10, 13)),  # equal width: the earlier
        (gaps(20, 0.1, L10_12=0.5, L15_17=0.4), (10, 13)),
        # Means .533 and .5, but mean - std .486 and .5: stable beats large; and .56 - .016 beats both.
        (gaps(20, 0.1, L10=0.6, L11_12=0.5, L14_16=0.5), (14, 17)),
        (gaps(20, 0.1, L10_12=0.5, L14_17=0.58, L15=0.54), (14, 18)),
        # 0.8 of the largest, on the spike, is still in.
        (gaps(20, 0.1, L18=0.5, L11_14=0.4), (11, 15)),
    ],
)
def test_the_rule_without_relaxation(gap, window):
    found = safevec.choose_window(profile_of(gap))
    assert (found.start, found.stop) == window and found.relaxations == ()


TO_7 = "least gap 0.8 -> 0.7 of the largest"
TO_6 = "least gap 0.7 -> 0.6 of the largest, std / mean 0.1 -> 0.2"
LAST = "no run qualifies: least width, largest mean gap"


@pytest.mark.parametrize(
    "gap, window, relaxations",
    [
        # A spike at 18 sets the largest gap, no run holds it, and the plateau lies at .76, .7, .64 and .6 of it.
        (gaps(20, 0.1, L18=0.5, L11_14=0.38), (11, 15), (TO_7,)),
        (gaps(20, 0.1, L18=0.5, L11_14=0.35), (11, 15), (TO_7,)),
        (gaps(20, 0.1, L18=0.5, L11_14=0.32), (11, 15), (TO_7, TO_6)),
        (gaps(20, 0.1, L18=0.5, L11_14=0.30), (11, 15), (TO_7, TO_6)),
        # At .75 of the largest 0.7 is enough, but std / mean of .5 .375 .5 is .129: only the last step allows it.
        (gaps(20, 0.1, L11=0.5, L12=0.375, L13=0.5), (11, 14), (TO_7, TO_6)),
        # Nothing near the spike, which has neighbours on both sides: three runs hold it, the earliest is taken.
        (gaps(20, 0.1, L14=0.5), (12, 15), (TO_7, TO_6, LAST)),
        (gaps(20, 0.1, L14=0.5, L15=0.2), (13, 16), (TO_7, TO_6, LAST)),
        (gaps(20, 0.1, L18=0.5), (16, 19), (TO_7, TO_6, LAST)),
        # No layer of a run may have unsafe below safe, but the last resort has no choice.
        (gaps(20, -0.1, L14=0.5), (12, 15), (TO_7, TO_6, LAST)),
        (gaps(20, -0.3, L11_13=-0.1), (11, 14), (TO_7, TO_6, LAST, "the mean gap is not positive")),
        (gaps(20, 0.0), (10, 13), (TO_7, TO_6, LAST, "the mean gap is not positive")),
    ],
)
def test_every_relaxation_is_taken_in_order_and_recorded(gap, window, relaxations):
    found = safevec.choose_window(profile_of(gap))
    assert (found.start, found.stop) == window
    assert found.relaxations == relaxations


@pytest.mark.parametrize(
    "layers, window",
    [
        (1, (0, 1)),
        (2, (1, 2)),
        (3, (1, 2)),
        (4, (2, 3)),
        (5, (2, 4)),
        (6, (3, 5)),
        (8, (4, 7)),
        (10, (5, 8)),
        (12, (6, 10)),
    ],
)
def test_small_models(layers, window):
    # Of a constant gap the widest run that fits, from the first candidate on.
    found = safevec.choose_window(profile_of(gaps(layers, 0.3)))
    assert (found.start, found.stop, found.relaxations) == (*window, ())


def test_two_candidates_that_differ_too_much_are_both_taken():
    # 6 blocks: the only run is 3-4; .2 against .5 passes no step.
    found = safevec.choose_window(profile_of(gaps(6, 0.1, L3=0.5, L4=0.2)))
    assert (found.start, found.stop, found.relaxations) == (3, 5, (TO_7, TO_6, LAST))


@pytest.mark.parametrize("seed", range(20))
def test_a_chosen_run_keeps_the_rule_and_ignores_the_scale(seed):
    gap = np.random.default_rng(seed).uniform(0.3, 0.5, size=24)
    found = safevec.choose_window(profile_of(gap))
    inside = gap[found.start : found.stop]
    assert 12 <= found.start and found.stop <= 23 and 3 <= len(inside) <= 8
    if not found.relaxations:
        assert inside.min() >= 0.8 * gap[12:23].max() and inside.std() <= 0.1 * inside.mean()
    for factor in (0.25, 1.7):
        again = safevec.choose_window(profile_of(factor * gap))
        assert (again.start, again.stop, again.relaxations) == (found.start, found.stop, found.relaxations)


def test_a_window_by_hand_overrides_the_rule():
    flat = profile_of(gaps(32, 0.3))
    assert safevec.choose_window(flat, manual=(0, 31)) == safevec.Window(0, 32, (), "given by hand")
    assert safevec.choose_window(flat, manual=(22, 22))[:2] == (22, 23)
    with pytest.raises(InputError, match="22-21 is empty"):
        safevec.choose_window(flat, manual=(22, 21))
    for manual in ((-1, 3), (30, 32), (40, 41)):
        with pytest.raises(InputError, match="of a model of 32, expected 0 to 31"):
            safevec.choose_window(flat, manual=manual)
    with pytest.raises(InputError, match="profile: the value at index \\(3,\\)"):
        safevec.choose_window(profile_of(gaps(8, 0.3, L3=np.nan)))


def test_shifted_windows_keep_their_width_or_are_refused():
    window = safevec.Window(22, 31, (TO_7,), "given by hand")
    assert safevec.shifted_window(window, 1, 32) == safevec.Window(23, 32, (TO_7,), "given by hand; shifted by 1")
    assert safevec.shifted_window(window, -2, 32)[:2] == (20, 29)
    for by in (2, -23):
        with pytest.raises(InputError, match="leaves layers 0-31"):
            safevec.shifted_window(window, by, 32)


# Scores


UNSAFE = np.array([[0.9, 0.2, 0.4], [0.9, 0.0, 0.2]])
JAILBREAK = np.array([[-0.9, -0.1, 0.1], [-0.9, 0.1, 0.3], [-0.9, 0.2, 0.0]])
LAST_TWO = safevec.Window(1, 3, (), "")


def test_scores_by_hand():
    found = safevec.score(UNSAFE, JAILBREAK, LAST_TWO)
    assert found == pytest.approx((0.2, 0.1, 0.15))
    per_prompt = safevec.prompt_scores(UNSAFE, JAILBREAK, LAST_TWO)
    np.testing.assert_allclose(per_prompt.unsafe, [0.3, 0.1])
    np.testing.assert_allclose(per_prompt.jailbreak, [0, 0.2, 0.1])


def test_without_jailbreak_prompts_s_is_unsafe_and_says_so():
    found = safevec.score(UNSAFE, None, LAST_TWO)
    assert found.jailbreak is None and found.s == found.unsafe == pytest.approx(0.2)
    assert safevec.prompt_scores(UNSAFE, None, LAST_TWO).jailbreak is None
    with pytest.raises(InputError, match="missing jailbreak set is stated with None"):
        safevec.score(UNSAFE, np.zeros((0, 3)), LAST_TWO)
    with pytest.raises(InputError, match="unsafe cosines of shape"):
        safevec.score(None, JAILBREAK, LAST_TWO)


def test_a_window_scores_the_mean_of_its_layers():
    alone = np.array([safevec.score(UNSAFE, JAILBREAK, safevec.Window(at, at + 1, (), "")) for at in range(3)])
    np.testing.assert_allclose(alone[:, 0], [0.9, 0.1, 0.3])
    np.testing.assert_allclose(alone[:, 1], [-0.9, 0.2 / 3, 0.4 / 3])
    np.testing.assert_allclose(alone[1:].mean(axis=0), safevec.score(UNSAFE, JAILBREAK, LAST_TWO))


def test_scores_outside_the_layers_or_of_other_models_are_refused():
    with pytest.raises(InputError, match="layers \\[3\\] of a model of 3"):
        safevec.score(UNSAFE, JAILBREAK, safevec.Window(2, 4, (), ""))
    with pytest.raises(InputError, match="3 and of 2 layers"):
        safevec.score(UNSAFE, JAILBREAK[:, :2], LAST_TWO)


def test_the_whole_way_on_a_made_up_family():
    """An aligned model, one that lost half of its shift along a hidden direction, and one that lost it all."""
    hidden = safevec.random_directions(1, 10, 32)
    everyone = 2 * safevec.random_directions(2, 10, 32)

    def activations(seed, shift):
        noise = np.random.default_rng(seed).normal(scale=0.1, size=(40, 10, 32))
        return (everyone + shift * hidden + noise).astype(np.float32)

    unsafe, safe = activations(3, 1.0), activations(4, 0.0)
    directions = directions_of(unsafe, safe)
    assert ((directions * hidden).sum(axis=1) > 0.97).all()
    window = safevec.choose_window(
        safevec.profile(safevec.cosines(safe, directions), safevec.cosines(unsafe, directions))
    )
    assert 5 <= window.start < window.stop <= 9
    scores = [
        safevec.score(
            safevec.cosines(activations(5, shift), directions),
            safevec.cosines(activations(6, shift), directions),
            window,
        ).s
        for shift in (1.0, 0.5, 0.0)
    ]
    assert scores[0] > scores[1] + 0.1 > scores[2] + 0.2
    control = safevec.random_directions(9, 10, 32)
    by_chance = [safevec.score(safevec.cosines(activations(5, shift), control), None, window).s for shift in (1.0, 0.0)]
    assert abs(by_chance[0] - by_chance[1]) < 0.5 * (scores[0] - scores[2])
