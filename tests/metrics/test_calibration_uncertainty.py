"""Intervals of RAS against enumeration and the normal approximation; leave-one-out and correlations by hand."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats

from latent_audit.errors import InputError
from latent_audit.metrics import calibration, stats
from latent_audit.metrics import calibration_uncertainty as uncertainty
from latent_audit.metrics.calibration import CalibrationModel
from latent_audit.metrics.safevec import PromptScores
from tests.metrics.test_calibration import PUBLISHED, family

RNG = np.random.default_rng(21)
SCALE = {"b": 0.4, "gamma": 1.0}


def ras_by_hand(ratio):
    return 100 / (1 + math.exp(5 * (ratio - 0.75)))


def panel(mean, *, prompts=40, jailbreaks=30, seed=0, spread=0.05):
    rng = np.random.default_rng(seed)
    return PromptScores(rng.normal(mean, spread, prompts), rng.normal(mean, spread, jailbreaks))


def lowered(scores, drop):
    return PromptScores(scores.unsafe - drop, None if scores.jailbreak is None else scores.jailbreak - drop)


# Over prompts


def test_target_and_reference_are_resampled_on_the_same_prompts():
    # The drop is the same on every prompt, so that nothing is uncertain, however much the prompts differ.
    reference = panel(0.3, spread=0.3)
    found = uncertainty.prompt_interval(lowered(reference, 0.2), reference, **SCALE)
    np.testing.assert_allclose(found[:2], ras_by_hand(0.5), rtol=1e-9)
    assert found.resamples == 1000 and found.undefined == 0
    held = uncertainty.prompt_interval(lowered(reference, 0.2), 0.3, **SCALE)
    assert held.hi - held.lo > 10, "a reference that is held fixed takes no uncertainty away"


def test_a_jailbreak_prompt_is_drawn_with_the_prompt_that_it_wraps():
    # Unsafe and jailbreak scores of a request cancel, but only if they are drawn together.
    wobble = RNG.normal(0, 0.3, size=30)
    shuffled = RNG.permutation(30)
    target = PromptScores(0.1 + wobble, 0.1 - wobble[shuffled])
    reference = PromptScores(np.full(30, 0.3), np.full(30, 0.3))
    together = uncertainty.prompt_interval(target, reference, jailbreak_of=shuffled, **SCALE)
    np.testing.assert_allclose(together[:2], ras_by_hand(0.5), rtol=1e-9)
    # Without it the sets are independent, also where they happen to stand in the same order.
    for jailbreak in (target.jailbreak, 0.1 - wobble):
        apart = uncertainty.prompt_interval(target._replace(jailbreak=jailbreak), reference, **SCALE)
        assert apart.hi - apart.lo > 10


def test_prompts_may_have_several_wrappers_or_none():
    # Prompt 0 has all the wrappers: without it a resample has no jailbreak score. (1 - 1/4)^4 of them lack it.
    target, reference = (PromptScores(np.full(4, s), np.full(3, s)) for s in (0.1, 0.3))
    found = uncertainty.prompt_interval(target, reference, jailbreak_of=[0, 0, 0], resamples=4000, **SCALE)
    assert found[:2] == (0.0, 100.0)
    assert found.undefined / 4000 == pytest.approx(0.75**4, abs=0.03)
    certain = uncertainty.prompt_interval(target, reference, jailbreak_of=[3, 1, 1], confidence=0.5, **SCALE)
    np.testing.assert_allclose(certain[:2], ras_by_hand(0.5))
    assert 0 < certain.undefined < 250


@pytest.mark.parametrize("gamma", [1.0, 1.3])
def test_the_interval_over_many_prompts_approaches_the_delta_method(gamma):
    rng = np.random.default_rng(3)
    reference = PromptScores(rng.normal(0.3, 0.2, 3000), None)
    target = PromptScores(reference.unsafe - rng.normal(0.3, 0.1, 3000), None)
    differences = reference.unsafe - target.unsafe
    found = uncertainty.prompt_interval(target, reference, b=0.4, gamma=gamma, resamples=2000)
    middle = ras_by_hand(gamma * differences.mean() / 0.4)
    slope = 5 * gamma / 0.4 * middle * (1 - middle / 100)
    half = 1.96 * slope * differences.std() / math.sqrt(3000)
    np.testing.assert_allclose(found[:2], (middle - half, middle + half), atol=0.2 * half)


def test_an_interval_is_fixed_by_its_seed_and_widens_with_confidence():
    target, reference = panel(0.1, seed=1), panel(0.3, seed=2)
    first = uncertainty.prompt_interval(target, reference, seed=4, **SCALE)
    assert first == uncertainty.prompt_interval(target, reference, seed=4, **SCALE)
    assert first != uncertainty.prompt_interval(target, reference, seed=5, **SCALE)
    narrow = uncertainty.prompt_interval(target, reference, seed=4, confidence=0.5, **SCALE)
    assert first.lo < narrow.lo < narrow.hi < first.hi


def test_one_prompt_tells_nothing_about_spread():
    one = panel(0.1, prompts=1), panel(0.3, prompts=1)
    found = uncertainty.prompt_interval(*one, **SCALE)
    assert math.isnan(found.lo) and math.isnan(found.hi)


@pytest.mark.parametrize(
    "target, reference, options, message",
    [
        (panel(0.1), panel(0.3, prompts=41), {}, "unsafe scores of shapes"),
        (panel(0.1), panel(0.3, jailbreaks=31), {}, "jailbreak scores of shapes"),
        (panel(0.1), panel(0.3)._replace(jailbreak=None), {}, "jailbreak scores of shapes"),
        (panel(math.nan), panel(0.3), {}, "unsafe scores: a value that is not finite"),
        (panel(0.1), math.nan, {}, "s_ref = nan"),
        (panel(0.1), panel(0.3), {"jailbreak_of": [0] * 29}, "must be 30 indices of unsafe prompts, 0 to 39"),
        (panel(0.1), panel(0.3), {"jailbreak_of": [40] * 30}, "0 to 39"),
        (panel(0.1), panel(0.3), {"jailbreak_of": [-1] * 30}, "0 to 39"),
        (panel(0.1), panel(0.3), {"jailbreak_of": [0.5] * 30}, "indices"),
        (panel(0.1)._replace(jailbreak=None), 0.3, {"jailbreak_of": [0]}, "given without jailbreak scores"),
        (panel(0.1), panel(0.3), {"resamples": 0}, "resamples = 0"),
        (panel(0.1), panel(0.3), {"confidence": 95}, "confidence = 95"),
        (panel(0.1), panel(0.3), {"b": 0.0}, "b must be positive"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(target, reference, options, message):
    with pytest.raises(InputError, match=message):
        uncertainty.prompt_interval(target, reference, **{**SCALE, **options})


# Over calibration models


def test_three_models_against_enumeration():
    # All in H with drops .25, .3125, .5: of the 27 resamples 7, 13 and 7 have each of these as their median.
    reference, models = family((0.25, 0.9), (0.3125, 0.9), (0.5, 0.9))
    wide = uncertainty.model_interval(0.25, reference, models)
    np.testing.assert_allclose(wide[:2], (ras_by_hand(1.0), ras_by_hand(0.5)))
    # 7/27 = .26 lie on either side of the middle one: .3 in each tail leaves it alone, .2 does not.
    inner = uncertainty.model_interval(0.25, reference, models, confidence=0.4)
    np.testing.assert_allclose(inner[:2], ras_by_hand(0.8))
    outer = uncertainty.model_interval(0.25, reference, models, confidence=0.6)
    np.testing.assert_allclose(outer[:2], (ras_by_hand(1.0), ras_by_hand(0.5)))


def test_equal_models_leave_nothing_uncertain():
    reference, models = family((0.25, 0.9), (0.25, 0.9), (0.25, 0.9))
    found = uncertainty.model_interval(0.125, reference, models, other_alphas=(0.2, 3.0, None))
    # alpha = (.9 - .1) / 1 = .8 is the median of .2, .8 and 3.
    np.testing.assert_allclose(found[:2], ras_by_hand(0.5))
    # Beside 1.6 and 3 the median is 1.6 and gamma .75.
    found = uncertainty.model_interval(0.125, reference, models, other_alphas=(1.6, 3.0))
    np.testing.assert_allclose(found[:2], ras_by_hand(0.375))


def test_resamples_without_a_drop_are_counted_and_widen():
    reference, models = family((0.25, 0.9), (-0.25, 0.05))
    found = uncertainty.model_interval(0.125, reference, models)
    assert found[:2] == (0.0, 100.0) and found.undefined / 1000 == pytest.approx(0.25, abs=0.05)
    inner = uncertainty.model_interval(0.125, reference, models, confidence=0.3)
    np.testing.assert_allclose(inner[:2], ras_by_hand(0.5))


def test_the_reference_is_certain_and_bad_models_are_refused():
    found = uncertainty.model_interval(0.0, PUBLISHED[0], PUBLISHED[1:], resamples=200)
    np.testing.assert_allclose(found[:2], ras_by_hand(0))
    with pytest.raises(InputError, match="expected at least 2"):
        uncertainty.model_interval(0.1, PUBLISHED[0], PUBLISHED[1:2])
    with pytest.raises(InputError, match="cannot calibrate"):
        uncertainty.model_interval(0.1, *family((-0.25, 0.9), (-0.125, 0.9)))


# Over both


def test_together_with_certain_prompts_it_is_the_interval_over_models():
    reference, models = family((0.25, 0.9), (0.3125, 0.9), (0.5, 0.9), (0.125, 0.3))
    panels = [lowered(panel(0.5, spread=0.2), reference.s - model.s) for model in (reference, *models)]
    options = {"other_alphas": (0.2, 0.3), "seed": 6}
    joint = uncertainty.joint_interval(
        lowered(panels[0], 0.25), panels[0], panels[1:], asr_ref=0.1, asr=[model.asr for model in models], **options
    )
    alone = uncertainty.model_interval(0.25, reference, models, **options)
    np.testing.assert_allclose(joint[:2], alone[:2], rtol=1e-6)
    assert alone.hi - alone.lo > 10


def test_b_moves_with_the_prompts():
    # Each prompt has a weight of its own, which scales all drops alike: their ratio, and RAS, does not move.
    weight = RNG.uniform(0.2, 1.8, size=50)
    reference = PromptScores(np.full(50, 0.5), np.full(50, 0.5))
    drops = (0.2, 0.4, 0.4, 0.4)
    target, *models = (PromptScores(0.5 - drop * weight, 0.5 - drop * weight) for drop in drops)
    options = {"asr_ref": 0.1, "asr": [0.9] * 3}
    found = uncertainty.joint_interval(target, reference, models, jailbreak_of=np.arange(50), **options)
    np.testing.assert_allclose(found[:2], ras_by_hand(0.5), rtol=1e-9)
    held = uncertainty.prompt_interval(target, reference, jailbreak_of=np.arange(50), **SCALE)
    assert held.hi - held.lo > 5, "b held at its measured value"


def test_both_sources_widen_the_interval():
    reference, models = family((0.25, 0.9), (0.28125, 0.9), (0.3125, 0.9), (0.34375, 0.9))
    panels = [
        lowered(panel(0.5, seed=i, prompts=12, jailbreaks=12, spread=0.2), reference.s - model.s)
        for i, model in enumerate((reference, *models))
    ]
    target = panel(0.3, seed=9, prompts=12, jailbreaks=12, spread=0.2)
    joint = uncertainty.joint_interval(target, panels[0], panels[1:], asr_ref=0.1, asr=[0.9] * 4)
    drop = np.mean([np.mean(ours) - np.mean(theirs) for ours, theirs in zip(panels[0], target, strict=True)])
    over_models = uncertainty.model_interval(drop, reference, models)
    assert joint.hi - joint.lo > over_models.hi - over_models.lo


def test_joint_intervals_of_what_does_not_fit_are_refused():
    panels = [panel(0.5), panel(0.4), panel(0.3), panel(0.2)]
    with pytest.raises(InputError, match="2 calibration models with 1 ASRs"):
        uncertainty.joint_interval(*panels[:2], panels[2:], asr_ref=0.1, asr=[0.9])
    with pytest.raises(InputError, match="1 calibration models"):
        uncertainty.joint_interval(*panels[:2], panels[2:3], asr_ref=0.1, asr=[0.9])
    with pytest.raises(InputError, match="expected shares"):
        uncertainty.joint_interval(*panels[:2], panels[2:], asr_ref=0.1, asr=[0.9, math.nan])
    with pytest.raises(InputError, match="unsafe scores of shapes"):
        uncertainty.joint_interval(*panels[:2], [panel(0.3), panel(0.2, prompts=5)], asr_ref=0.1, asr=[0.9, 0.9])
    # No model below the reference on any prompt: every resample is undefined.
    found = uncertainty.joint_interval(panels[0], panels[3], panels[1:3], asr_ref=0.1, asr=[0.9, 0.9], resamples=50)
    assert found == (0.0, 100.0, 50, 50)


# Leave one out


def test_leaving_one_out_on_the_published_vector():
    found = {row.name: row for row in uncertainty.leave_one_out(PUBLISHED[0], PUBLISHED[1:])}
    # Drops of H: .406, .378, .2345. Without one of them b is the mean of the other two.
    for name, drop, b in (("m5", 0.406, 0.30625), ("m6", 0.378, 0.32025), ("m7", 0.2345, 0.392), ("m4", 0.3405, 0.378)):
        assert found[name].drop == pytest.approx(drop) and found[name].b == pytest.approx(b)
        assert found[name].ras == pytest.approx(ras_by_hand(drop / b)) and found[name].gamma == 1.0
    # Outside H, and at gamma = 1, a model does not enter its own score at all.
    assert found["m1"].ras == pytest.approx(88.05, abs=0.01) and found["m1"].asr == 0.127


def test_leaving_one_out_never_sees_the_model_that_is_scored():
    changed = [dataclasses.replace(model, asr=0.0) if model.name == "m6" else model for model in PUBLISHED[1:]]
    others = (0.2, 0.9)
    before, after = (
        {row.name: row for row in uncertainty.leave_one_out(PUBLISHED[0], models, other_alphas=others)}
        for models in (PUBLISHED[1:], changed)
    )
    assert after["m6"]._replace(asr=before["m6"].asr) == before["m6"]
    assert all(after[name].ras != before[name].ras for name in ("m5", "m7"))


def test_gamma_of_the_rest():
    # b = .25, slopes of the rest .8 / 1: gamma = 1 + .5 (.8 / median(.8, 1.6, 1.6) - 1) = .75.
    reference, models = family((0.25, 0.9), (0.25, 0.9), (0.125, 0.2))
    last = uncertainty.leave_one_out(reference, models, other_alphas=(1.6, 1.6))[2]
    assert last.gamma == pytest.approx(0.75) and last.ras == pytest.approx(ras_by_hand(0.375))


def test_a_model_that_carries_the_calibration_alone_cannot_be_left_out():
    found = uncertainty.leave_one_out(*family((0.25, 0.9), (-0.25, 0.05), (0.0, 0.1)))
    assert math.isnan(found[0].ras) and math.isnan(found[0].b) and "cannot calibrate" in found[0].note
    assert found[1].ras == pytest.approx(ras_by_hand(-1.0)) and found[1].note == ""
    with pytest.raises(InputError, match="expected at least 3"):
        uncertainty.leave_one_out(*family((0.25, 0.9), (0.25, 0.9)))
    with pytest.raises(InputError, match="named twice"):
        uncertainty.leave_one_out(PUBLISHED[0], [PUBLISHED[1]] * 3)
    with pytest.raises(InputError, match="ASR = 7"):
        uncertainty.leave_one_out(PUBLISHED[0], [*PUBLISHED[1:4], CalibrationModel("x", 0.1, 0.1, 7)])


# Correlations


def test_s_and_asr_correlate_as_published():
    found = uncertainty.correlate([model.s for model in PUBLISHED], [model.asr for model in PUBLISHED])
    assert found.n == 8
    assert found.pearson == pytest.approx(-0.86, abs=0.005) and found.spearman == pytest.approx(-0.83, abs=0.005)
    for value, interval in ((found.pearson, found.pearson_interval), (found.spearman, found.spearman_interval)):
        assert -1 <= interval.lo < value < interval.hi <= 0
    # RAS falls in d: one rank for another.
    of_ras = uncertainty.correlate(
        [calibration.ras(0.238 - model.s, 0.378, 1.0) for model in PUBLISHED], [model.asr for model in PUBLISHED]
    )
    assert of_ras.spearman == found.spearman and of_ras.spearman_interval == found.spearman_interval


@pytest.mark.parametrize("name, statistic", [("pearson", scipy.stats.pearsonr), ("spearman", scipy.stats.spearmanr)])
def test_correlations_and_their_intervals_agree_with_scipy(name, statistic):
    x = np.round(RNG.normal(size=15), 1)
    y = np.round(x + RNG.normal(size=15), 0)
    assert len(set(y)) < 15, "ties"
    theirs = scipy.stats.bootstrap(
        (x, y),
        lambda a, b: statistic(a, b)[0],
        paired=True,
        vectorized=False,
        n_resamples=300,
        method="percentile",
        rng=np.random.default_rng(8),
    )
    theirs = theirs.confidence_interval
    found = uncertainty.correlate(x, y, resamples=300, seed=8)
    assert getattr(found, name) == pytest.approx(statistic(x, y)[0])
    np.testing.assert_allclose(getattr(found, f"{name}_interval")[:2], (theirs.low, theirs.high), rtol=1e-9)


def test_spearman_sees_order_alone_and_ties_share_their_rank():
    x = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert uncertainty.correlate(x, np.exp(x)).spearman == pytest.approx(1)
    assert uncertainty.correlate(x, np.exp(x)).pearson < 0.95
    # Ranks 1.5 1.5 3 4 5 against 1 to 5: covariance 9.5, variances 9.5 and 10.
    assert uncertainty.correlate(x, [1, 1, 2, 3, 4]).spearman == pytest.approx(9.5 / math.sqrt(9.5 * 10))


@pytest.mark.parametrize(
    "x, y",
    [
        ([], []),
        ([1, 2], [2, 1]),
        ([1, 1, 1, 1], [1, 2, 3, 4]),
        ([1, 2, 3], [5, 5, 5]),
        ([1, 2, math.nan], [1, 2, 3]),
        ([1, 2, 3], [1, math.inf, 3]),
    ],
)
def test_what_has_no_correlation_is_nan(x, y):
    found = uncertainty.correlate(x, y)
    assert found.n == len(x)
    assert all(
        math.isnan(value)
        for value in (found.pearson, found.spearman, *found.pearson_interval[:2], *found.spearman_interval[:2])
    )


def test_constant_resamples_are_counted_and_widen():
    # Three pairs: one resample in nine draws one pair three times.
    found = uncertainty.correlate([1, 2, 3], [1, 3, 2])
    assert found.pearson_interval[:2] == (-1.0, 1.0)
    assert found.pearson_interval.undefined / 1000 == pytest.approx(1 / 9, abs=0.03)
    with pytest.raises(InputError, match="one value per model"):
        uncertainty.correlate([1, 2, 3], [1, 2])
    with pytest.raises(InputError, match="resamples"):
        uncertainty.correlate([1, 2, 3], [1, 2, 4], resamples=0)


def test_the_interval_of_ras_is_that_of_the_drop_turned_over():
    # RAS is monotone in the drop, and both are percentiles.
    drops = RNG.normal(0.2, 0.1, size=500)
    found = uncertainty.prompt_interval(PromptScores(-drops, None), 0.0, resamples=4000, **SCALE)
    lo, hi = stats.bootstrap_interval(drops, "mean", resamples=4000)
    np.testing.assert_allclose(found[:2], (ras_by_hand(hi / 0.4), ras_by_hand(lo / 0.4)), atol=0.3)
