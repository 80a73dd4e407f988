"""Intervals and tests for shares and scores of a few dozen prompts; numpy and scipy only.

One rule for missing values holds everywhere here: nothing is dropped silently. A value that is NaN or
infinite makes the interval (nan, nan); whoever wants to leave a prompt out does so before calling, and
reports the smaller n.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special
import scipy.stats
from numpy.typing import ArrayLike

from latent_audit.errors import InputError

_STATISTICS: dict[str, Callable] = {"median": np.median, "mean": np.mean}
_UNKNOWN = (float("nan"), float("nan"))


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share, without continuity correction.

    Returns (lo, hi) inside [0, 1]; (nan, nan) when n = 0. Raises InputError unless 0 <= successes <= n and
    0 < confidence < 1. Source: docs/method.md section 0.

    None of ten: the upper end is z^2 / (10 + z^2) with z = 1.96.

    >>> lo, hi = wilson_interval(0, 10)
    >>> lo, round(hi, 3)
    (0.0, 0.278)
    """
    _check_confidence(confidence)
    if not 0 <= successes <= n:
        raise InputError(f"wilson_interval: successes must lie between 0 and n, got {successes} of {n}")
    if n == 0:
        return _UNKNOWN
    z = float(scipy.stats.norm.isf((1 - confidence) / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At 0 and n the two terms cancel exactly on paper and to about 1e-17 in floats.
    lo = 0.0 if successes == 0 else float(centre - half)
    hi = 1.0 if successes == n else float(centre + half)
    return lo, hi


def clopper_pearson(successes: float, n: float, *, tail: float = 0.025) -> tuple[float, float]:
    """Exact (Clopper-Pearson) bounds of a share, each of which the truth lies beyond with probability at most `tail`.

    Args:
      successes, n: whole for counted prompts, fractions for an effective n (metrics/clusters.py).
      tail: .025 gives the two-sided 95 % interval, .05 two one-sided 95 % bounds; divided by k, bounds that hold for k
        shares together.
    Returns (lo, hi); (nan, nan) when n = 0. Raises InputError unless 0 <= successes <= n and 0 < tail < 1.
    Source: docs/method.md section 13.

    None of ten: the truth that leaves a chance of one in twenty to see none.

    >>> lo, hi = clopper_pearson(0, 10, tail=0.05)
    >>> lo, round(hi, 6) == round(1 - 0.05 ** (1 / 10), 6)
    (0.0, True)
    """
    if not 0 < tail < 1:
        raise InputError(f"clopper_pearson: tail must lie between 0 and 1, got {tail}")
    if not 0 <= successes <= n:
        raise InputError(f"clopper_pearson: successes must lie between 0 and n, got {successes} of {n}")
    if n == 0:
        return _UNKNOWN
    lo = 0.0 if successes == 0 else float(scipy.special.betaincinv(successes, n - successes + 1, tail))
    hi = 1.0 if successes == n else float(scipy.special.betainccinv(successes + 1, n - successes, tail))
    return lo, hi


def bootstrap_interval(
    values: ArrayLike, statistic: str, *, resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the `statistic` ('median' or 'mean') of `values: [N]`.

    The same seed and N draw the same prompts, whatever the values: two cells over one panel are resampled
    alike. Returns (lo, hi); (nan, nan) with fewer than two values (one value says nothing about spread) or
    any that is not finite. Raises InputError on an unknown statistic. Source: docs/method.md section 1 [P1].
    """
    values = _vector("values", values)
    reduce = _statistic(statistic)
    check_resampling(resamples, confidence)
    if len(values) < 2 or not np.isfinite(values).all():
        return _UNKNOWN
    rows = resampled_rows(len(values), resamples, seed)
    return _percentiles(reduce(values[rows], axis=1), confidence)


def paired_difference_interval(
    a: ArrayLike, b: ArrayLike, statistic: str, *, resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of statistic(a) - statistic(b), `a, b: [N]` measured on the same prompts.

    Prompts are drawn once per resample and serve both sides. With 'median' this is the difference of the two
    medians, not the median of the differences. Missing values and errors as in bootstrap_interval.
    """
    a, b = _pair(a, b)
    reduce = _statistic(statistic)
    check_resampling(resamples, confidence)
    if len(a) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return _UNKNOWN
    rows = resampled_rows(len(a), resamples, seed)
    return _percentiles(reduce(a[rows], axis=1) - reduce(b[rows], axis=1), confidence)


def ratio_of_means_interval(
    a: ArrayLike, b: ArrayLike, *, resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of mean(a) / mean(b), `a, b: [N]` non-negative, on the same prompts.

    Returns (nan, nan) when mean(b) is 0. Otherwise a resample that draws only zeros of `b` is kept, because
    such resamples are the ones with the largest ratios and dropping them would narrow the interval: x/0
    counts as infinite, 0/0 as 0 for the lower end and as infinite for the upper. An upper end of inf
    therefore means that the prompts do not bound the ratio. Missing values as in bootstrap_interval; raises
    InputError on a negative value.
    """
    a, b = _pair(a, b)
    check_resampling(resamples, confidence)
    if (a < 0).any() or (b < 0).any():
        raise InputError("ratio_of_means_interval: values must not be negative, a ratio of means would change sign")
    if len(a) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()) or b.sum() == 0:
        return _UNKNOWN
    rows = resampled_rows(len(a), resamples, seed)
    above, below = a[rows].mean(axis=1), b[rows].mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = above / below
    undefined = np.isnan(ratios)
    tail = (1 - confidence) / 2
    # Order statistics instead of interpolation: between two infinities there is nothing to interpolate.
    lo = np.quantile(np.where(undefined, 0.0, ratios), tail, method="lower")
    hi = np.quantile(np.where(undefined, np.inf, ratios), 1 - tail, method="higher")
    return float(lo), float(hi)


def mcnemar_exact(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided exact McNemar p-value for `a, b: bool[N]`, two outcomes on the same prompts.

    Only prompts on which the two differ count; 1.0 when there are none. Raises InputError on unequal lengths
    and on anything but booleans (or 0 and 1).

    Three differ, all one way: twice the chance of three heads.

    >>> round(mcnemar_exact([1, 1, 1, 1], [1, 0, 0, 0]), 3)
    0.25
    """
    a, b = _pair(a, b)
    if not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise InputError("mcnemar_exact: outcomes must be booleans (or 0 and 1)")
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(scipy.stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def simultaneous_confidence(confidence: float, intervals: int) -> float:
    """Confidence each of `intervals` intervals needs for all of them to hold together with `confidence`.

    Bonferroni, because it holds however the intervals depend on each other, and cells of one audit share
    prompts.
    """
    _check_confidence(confidence)
    if intervals < 1:
        raise InputError(f"simultaneous_confidence: intervals must be at least 1, got {intervals}")
    return 1 - (1 - confidence) / intervals


def resampled_rows(n: int, resamples: int, seed: Any) -> np.ndarray:
    """The prompts that each resample draws with replacement; int64 [resamples, n]. `seed`: an int or a Generator."""
    return np.random.default_rng(seed).integers(0, n, size=(resamples, n))


def resampled_weights(n: int, resamples: int, seed: Any) -> np.ndarray:
    """The weight of each prompt in each resample, the draws of resampled_rows; float64 [resamples, n], rows sum to 1.

    A mean over a resample is then weights @ values, and statistics of means need no copies of the values.
    """
    rows = resampled_rows(n, resamples, seed)
    return np.stack([np.bincount(row, minlength=n) for row in rows]) / n


def spread_interval(value: Any, draws: ArrayLike, confidence: float = 0.95) -> tuple[Any, Any]:
    """value -+ z standard deviations of its bootstrap `draws` (first axis): the normal bootstrap interval.

    For statistics that grow with the noise in a mean of many dimensions, such as squared distances: a resample holds
    about twice that noise, so the percentiles of its draws lie off the value, or miss it altogether. [O]

    Args:
      value: float or array [...]; draws: [resamples, ...].
    Returns (lo, hi) like `value`; NaN where a draw is not finite or there are fewer than two.
    """
    _check_confidence(confidence)
    draws = np.asarray(draws, np.float64)
    if len(draws) < 2:
        return (np.full_like(value, np.nan, np.float64)[()],) * 2
    z = scipy.stats.norm.isf((1 - confidence) / 2)
    with np.errstate(invalid="ignore"):
        half = z * draws.std(axis=0, ddof=1)
    return value - half, value + half


def check_resampling(resamples: int, confidence: float) -> None:
    """Raise InputError unless there is at least one resample and 0 < confidence < 1."""
    _check_confidence(confidence)
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, got {resamples}")


def _percentiles(draws: np.ndarray, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    lo, hi = np.quantile(draws, (tail, 1 - tail))
    return float(lo), float(hi)


def _vector(name: str, values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise InputError(f"{name} must be one value per prompt, got shape {values.shape}")
    return values


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = _vector("a", a), _vector("b", b)
    if len(a) != len(b):
        raise InputError(f"a and b must be measured on the same prompts, got {len(a)} and {len(b)} values")
    return a, b


def _statistic(name: str) -> Callable:
    if name not in _STATISTICS:
        raise InputError(f"statistic must be one of {sorted(_STATISTICS)}, got {name!r}")
    return _STATISTICS[name]


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InputError(f"confidence must lie between 0 and 1, got {confidence}")
