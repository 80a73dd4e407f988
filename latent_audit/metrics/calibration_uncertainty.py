"""How sure a RAS is: intervals over prompts and over calibration models, leave-one-out scores, correlations with ASR.

docs/method.md section 10; all of it is ours [O], the paper gives point values. Intervals are percentile bootstraps. As
in metrics/stats.py nothing is dropped silently: a resample whose value is undefined is counted, and widens the interval
at both ends. One seed draws the same prompts and the same models for every target of equal counts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from latent_audit.errors import InputError
from latent_audit.metrics import calibration
from latent_audit.metrics.calibration import CalibrationModel
from latent_audit.metrics.safevec import PromptScores, combine

_NAN = float("nan")


class Interval(NamedTuple):
    """Ends of an interval and how many of `resamples` were undefined and widened it."""

    lo: float
    hi: float
    resamples: int
    undefined: int


class LeftOut(NamedTuple):
    """A calibration model scored by a calibration without it; b, gamma and ras are NaN where there is none (`note`)."""

    name: str
    asr: float
    drop: float
    b: float
    gamma: float
    ras: float
    note: str


class Correlation(NamedTuple):
    """Pearson's and Spearman's coefficient of n pairs with their intervals; NaN where unknown."""

    n: int
    pearson: float
    pearson_interval: Interval
    spearman: float
    spearman_interval: Interval


def prompt_interval(
    target: PromptScores,
    reference: PromptScores | float,
    *,
    b: float,
    gamma: float,
    jailbreak_of: Sequence[int] | np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Interval of a target's RAS over prompts, b and gamma held as they were calibrated.

    Prompts are drawn with replacement, and target and reference get the same draws: what is resampled is the drop on
    the same prompts, not two unrelated means.

    Args:
      target: mean cosine of each prompt, [U] and [J] (safevec.prompt_scores).
      reference: the same of the reference, prompt for prompt; or s_ref, a float, which is then held fixed as well (the
        reference was measured on other prompts): the interval then speaks of the target's mean alone.
      jailbreak_of: int [J], the unsafe prompt that each jailbreak prompt wraps: it is then drawn with that prompt, as
        two scores of one request are not independent. None: the two sets are drawn independently.
    Returns:
      The interval; `undefined` counts resamples without any jailbreak prompt (possible with jailbreak_of only), where
      RAS is taken as 0 and as 100. NaN ends with fewer than two prompts in a set.
    Raises:
      InputError: unequal prompts or jailbreak sets, scores not finite, bad indices, b, gamma, resamples or confidence.
    """
    _check_resampling(resamples, confidence)
    if isinstance(reference, PromptScores):
        unsafe, jailbreak = _stack([target, reference])
    elif not np.isfinite(reference):
        raise InputError(f"s_ref = {reference}, expected a finite number")
    else:
        unsafe, jailbreak = _stack([target])
    if _too_few(unsafe, jailbreak):
        return Interval(_NAN, _NAN, resamples, 0)
    s = _resampled_scores(unsafe, jailbreak, jailbreak_of, resamples, seed)
    drops = (s[:, 1] if isinstance(reference, PromptScores) else reference) - s[:, 0]
    values = np.full(resamples, _NAN)
    defined = np.isfinite(drops)
    values[defined] = calibration.ras(drops[defined], b, gamma)
    return _interval(values, confidence, 0.0, 100.0)


def model_interval(
    drop: float,
    reference: CalibrationModel,
    models: Sequence[CalibrationModel],
    *,
    other_alphas: Sequence[float | None] = (),
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Interval of a target's RAS over calibration models: the set is resampled, b, alpha and gamma follow.

    A bootstrap of few models is coarse: of M models b takes few values, and the interval says how much the score leans
    on this set, not more.

    Args:
      drop: d of the target.
      reference, models: as in calibrate_family, whose errors are raised here too.
      other_alphas: alpha of every other calibrated family, held fixed (None where one has none). Without any, gamma is
        1 in every resample.
    Returns:
      The interval; `undefined` counts resamples without a positive drop, which cannot be calibrated: RAS is taken as 0
      and as 100.
    """
    _check_resampling(resamples, confidence)
    calibration.calibrate_family(reference, models)
    drops = np.array([reference.s - model.s for model in models])
    picks = _rows(len(models), resamples, (seed, 2))
    asr = np.array([model.asr for model in models])
    values = [_ras_of(drop, drops[pick], asr[pick], reference.asr, other_alphas) for pick in picks]
    return _interval(np.array(values), confidence, 0.0, 100.0)


def joint_interval(
    target: PromptScores,
    reference: PromptScores,
    models: Sequence[PromptScores],
    *,
    asr_ref: float,
    asr: Sequence[float],
    other_alphas: Sequence[float | None] = (),
    jailbreak_of: Sequence[int] | np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Interval of a target's RAS over prompts and calibration models together.

    Every resample draws prompts once, for target, reference and all calibration models (so that b moves with them),
    then models, independently; b, alpha and gamma follow. Measured ASRs are held fixed: their own error is not in it.

    Args:
      target, reference, models: mean cosine of each prompt, all on the same prompts; at least two models.
      asr_ref, asr: measured ASR of the reference and of the models, in [0, 1].
      other_alphas, jailbreak_of and the rest: as in model_interval and prompt_interval.
    Returns:
      The interval; `undefined` counts resamples without a positive drop or without any jailbreak prompt, where RAS is
      taken as 0 and as 100. NaN ends with fewer than two prompts in a set.
    """
    _check_resampling(resamples, confidence)
    unsafe, jailbreak = _stack([target, reference, *models])
    if len(models) < 2 or len(asr) != len(models):
        raise InputError(f"{len(models)} calibration models with {len(asr)} ASRs, expected one each of at least 2")
    rates = np.asarray(asr, np.float64)
    if not all(0 <= value <= 1 for value in (asr_ref, *rates)):
        raise InputError(f"ASR of {asr_ref} (reference) and {rates.tolist()}, expected shares between 0 and 1")
    if _too_few(unsafe, jailbreak):
        return Interval(_NAN, _NAN, resamples, 0)
    s = _resampled_scores(unsafe, jailbreak, jailbreak_of, resamples, seed)
    drops = s[:, 1:2] - s
    picks = _rows(len(models), resamples, (seed, 2))
    values = [
        _ras_of(drop[0], drop[2:][pick], rates[pick], asr_ref, other_alphas) if np.isfinite(drop).all() else _NAN
        for drop, pick in zip(drops, picks, strict=True)
    ]
    return _interval(np.array(values), confidence, 0.0, 100.0)


def leave_one_out(
    reference: CalibrationModel, models: Sequence[CalibrationModel], *, other_alphas: Sequence[float | None] = ()
) -> tuple[LeftOut, ...]:
    """Score each calibration model by a calibration made without it, so that no score has seen its own ASR.

    The reference stays in each of them. other_alphas: as in model_interval. Raises InputError for fewer than three
    models, or models that calibrate_family refuses.
    """
    if len(models) < 3:
        raise InputError(f"leave-one-out of {len(models)} calibration models, expected at least 3: 2 must remain")
    calibration.check_models((reference, *models))
    found = []
    for model in models:
        rest = [other for other in models if other is not model]
        drop = reference.s - model.s
        scale = calibration.scale(
            [reference.s - other.s for other in rest], [other.asr for other in rest], reference.asr
        )
        if scale is None:
            found.append(
                LeftOut(
                    model.name,
                    model.asr,
                    drop,
                    _NAN,
                    _NAN,
                    _NAN,
                    "cannot calibrate: no other model lies below the reference",
                )
            )
            continue
        gamma = _gamma(scale.alpha, other_alphas)
        found.append(LeftOut(model.name, model.asr, drop, scale.b, gamma, calibration.ras(drop, scale.b, gamma), ""))
    return tuple(found)


def correlate(
    x: ArrayLike, y: ArrayLike, *, resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> Correlation:
    """Pearson's and Spearman's correlation of float [n] each, with bootstrap intervals over the pairs.

    Ties take their mean rank. Both are NaN, with their intervals, for fewer than three pairs (two always lie on a
    line), a constant vector, or a value that is not finite. A resample in which a vector is constant is counted in
    `undefined` and taken as -1 and as 1. Raises InputError on unequal lengths.
    """
    _check_resampling(resamples, confidence)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise InputError(f"correlation of shapes {x.shape} and {y.shape}, expected one value per model on both sides")
    usable = len(x) > 2 and np.isfinite(x).all() and np.isfinite(y).all() and np.ptp(x) > 0 and np.ptp(y) > 0
    if not usable:
        unknown = Interval(_NAN, _NAN, resamples, 0)
        return Correlation(len(x), _NAN, unknown, _NAN, unknown)
    rows = _rows(len(x), resamples, seed)
    ranks = (scipy.stats.rankdata(values[rows], axis=1) for values in (x, y))
    pearson, spearman = _row_correlations(x[rows], y[rows]), _row_correlations(*ranks)
    return Correlation(
        len(x),
        float(scipy.stats.pearsonr(x, y)[0]),
        _interval(pearson, confidence, -1.0, 1.0),
        float(scipy.stats.spearmanr(x, y)[0]),
        _interval(spearman, confidence, -1.0, 1.0),
    )


def _row_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    constant = (np.ptp(x, axis=1) == 0) | (np.ptp(y, axis=1) == 0)
    x, y = (values - values.mean(axis=1, keepdims=True) for values in (x, y))
    norms = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return np.where(constant, _NAN, (x * y).sum(axis=1) / np.where(constant, 1.0, norms))


def _gamma(alpha: float | None, other_alphas: Sequence[float | None]) -> float:
    return calibration.gamma_of(alpha, calibration.global_alpha((alpha, *other_alphas)))


def _ras_of(
    drop: float, drops: np.ndarray, asr: np.ndarray, asr_ref: float, other_alphas: Sequence[float | None]
) -> float:
    scale = calibration.scale(drops, asr, asr_ref)
    return _NAN if scale is None else calibration.ras(drop, scale.b, _gamma(scale.alpha, other_alphas))


def _stack(models: Sequence[PromptScores]) -> tuple[np.ndarray, np.ndarray | None]:
    """Both sets' scores of all models, [M, U] and [M, J]; None where no model has a jailbreak set."""
    unsafe = _stack_set("unsafe", [model.unsafe for model in models])
    if all(model.jailbreak is None for model in models):
        return unsafe, None
    return unsafe, _stack_set("jailbreak", [model.jailbreak for model in models])


def _stack_set(field: str, rows: Sequence[np.ndarray | None]) -> np.ndarray:
    shapes = {None if row is None else np.shape(row) for row in rows}
    if len(shapes) > 1 or any(shape is None or len(shape) != 1 for shape in shapes):
        raise InputError(
            f"{field} scores of shapes {shapes}, expected one value per prompt, the same prompts for all models"
        )
    stacked = np.array(rows, np.float64)
    if not np.isfinite(stacked).all():
        raise InputError(f"{field} scores: a value that is not finite; score the model again")
    return stacked


def _too_few(unsafe: np.ndarray, jailbreak: np.ndarray | None) -> bool:
    # One prompt says nothing about the spread.
    return unsafe.shape[1] < 2 or (jailbreak is not None and jailbreak.shape[1] < 2)


def _resampled_scores(
    unsafe: np.ndarray,
    jailbreak: np.ndarray | None,
    jailbreak_of: Sequence[int] | np.ndarray | None,
    resamples: int,
    seed: int,
) -> np.ndarray:
    """s of each model [M, U], [M, J] under each draw of prompts; float64 [R, M], NaN without a jailbreak prompt."""
    rows = _rows(unsafe.shape[1], resamples, (seed, 0))
    drawn_unsafe = np.stack([scores[rows].mean(axis=1) for scores in unsafe], axis=1)
    if jailbreak is None:
        if jailbreak_of is not None:
            raise InputError("jailbreak_of is given without jailbreak scores; leave it out")
        return combine(drawn_unsafe, None)
    if jailbreak_of is None:
        own = _rows(jailbreak.shape[1], resamples, (seed, 1))
        return combine(drawn_unsafe, np.stack([scores[own].mean(axis=1) for scores in jailbreak], axis=1))
    groups, count = np.asarray(jailbreak_of), unsafe.shape[1]
    if groups.shape != jailbreak.shape[1:] or groups.dtype.kind not in "iu" or not np.isin(groups, range(count)).all():
        raise InputError(f"jailbreak_of must be {jailbreak.shape[1]} indices of unsafe prompts, 0 to {count - 1}")
    size = np.bincount(groups, minlength=count)[rows].sum(axis=1)
    sums = np.stack([np.bincount(groups, scores, minlength=count)[rows].sum(axis=1) for scores in jailbreak], axis=1)
    empty = size == 0
    return combine(drawn_unsafe, np.where(empty[:, None], _NAN, sums / np.maximum(size, 1)[:, None]))


def _rows(n: int, resamples: int, seed: int | tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, n, size=(resamples, n))


def _interval(values: np.ndarray, confidence: float, least: float, greatest: float) -> Interval:
    undefined, tail = np.isnan(values), (1 - confidence) / 2
    lo = np.quantile(np.where(undefined, least, values), tail)
    hi = np.quantile(np.where(undefined, greatest, values), 1 - tail)
    return Interval(float(lo), float(hi), len(values), int(undefined.sum()))


def _check_resampling(resamples: int, confidence: float) -> None:
    if resamples < 1 or not 0 < confidence < 1:
        raise InputError(
            f"resamples = {resamples} and confidence = {confidence}, expected at least 1 and a value between 0 and 1"
        )
