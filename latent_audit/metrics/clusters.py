"""Prompts that share a request, a noun or a category: how much they say together, and intervals that know it.

docs/method.md section 13. Clusters are labels [N], one per prompt; None means that every prompt stands for itself.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from latent_audit.errors import InputError

# [O]: two prompts of one cluster are never taken to be less alike than this. A few dozen prompts cannot show less:
# with 6 clusters of 4 the estimate of no correlation at all scatters by about .2.
LEAST_CORRELATION = 0.3


class Ratio(NamedTuple):
    """A ratio with its one-sided bounds; all NaN where nothing was measured."""

    value: float
    lo: float
    hi: float


def intraclass_correlation(outcomes: ArrayLike, clusters: ArrayLike) -> float:
    """How alike the outcomes of one cluster are: the one-way analysis of variance's estimate.

    Args:
      outcomes: bool or float [N]; clusters: labels [N].
    Returns 1 where clusters differ and agree within, 0 or less where they do not; NaN where it cannot be told (one
    cluster, no cluster of two, outcomes that never vary).
    """
    outcomes = np.asarray(outcomes, np.float64)
    label, sizes = _sizes(clusters, len(outcomes))
    n, count = len(outcomes), len(sizes)
    if count < 2 or n == count:
        return math.nan
    means = np.bincount(label, outcomes) / sizes
    between = float((sizes * (means - outcomes.mean()) ** 2).sum()) / (count - 1)
    within = float(((outcomes - means[label]) ** 2).sum()) / (n - count)
    usual = (n - float((sizes**2).sum()) / n) / (count - 1)
    total = between + (usual - 1) * within
    return (between - within) / total if total > 0 else math.nan


def design_effect(clusters: ArrayLike | None, outcomes: ArrayLike | None = None) -> float:
    """By how much clusters widen the variance of a share: n / design_effect prompts on their own say as much.

    Kish's 1 + (m - 1) rho, with m = sum of squared sizes / N, the size of the cluster that a prompt is in on average.
    rho is estimated from `outcomes` where they are given, upwards only: it lies between LEAST_CORRELATION and 1. So the
    effect lies between 1 (no cluster has two prompts, or clusters is None) and m.

    Args:
      clusters: labels [N]; outcomes: bool [N] or [K, N], of which the K-th row with the highest rho counts.
    """
    if clusters is None or not len(np.asarray(clusters)):
        return 1.0
    _, sizes = _sizes(clusters, len(np.asarray(clusters)))
    typical = float((sizes**2).sum() / sizes.sum())
    estimates = [] if outcomes is None else [intraclass_correlation(row, clusters) for row in np.atleast_2d(outcomes)]
    known = [estimate for estimate in estimates if not math.isnan(estimate)]
    return 1 + (typical - 1) * min(1.0, max(LEAST_CORRELATION, *known, -1.0))


def bootstrap_rows(
    clusters: ArrayLike | None, n: int, *, resamples: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """How often each resample draws each prompt when whole clusters are drawn; ([R, N] counts, [N] cluster numbers)."""
    label, sizes = _sizes(np.arange(n) if clusters is None else clusters, n)
    count = max(len(sizes), 1)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return drawn[:, label], label


def median_interval(
    values: ArrayLike, clusters: ArrayLike | None = None, *, tail: float = 0.05, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Cluster bootstrap bounds of the median of values [N]; inf (censored) is a value like any other, above all.

    The median is the lower middle value, an observed one, so that it never lies between a number and infinity.
    Returns (nan, nan) below two clusters or with a NaN. Each bound is missed with about `tail` (_expanded).
    """
    values = np.asarray(values, np.float64)
    drawn, label = bootstrap_rows(clusters, len(values), resamples=resamples, seed=seed)
    if label.size == 0 or label.max() < 1 or np.isnan(values).any():
        return math.nan, math.nan
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(drawn[:, order], axis=1)
    middle = np.argmax(2 * reached >= reached[:, -1:], axis=1)
    return _ends(values[order][middle], _expanded(tail, int(label.max()) + 1))


def median(values: ArrayLike) -> float:
    """The lower middle of values [N], as median_interval takes it; NaN where there are none."""
    values = np.sort(np.asarray(values, np.float64))
    return float(values[(len(values) - 1) // 2]) if len(values) else math.nan


def geometric_mean_ratio(
    a: ArrayLike,
    b: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    tail: float = 0.05,
    resamples: int = 2000,
    seed: int = 0,
) -> Ratio:
    """Geometric mean of a / b, with cluster bootstrap bounds.

    Args:
      a, b: positive and finite [N], measured on the same prompts.
    Bounds are NaN below two clusters. Raises InputError on unequal lengths or a value that is not positive and finite.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise InputError(f"geometric_mean_ratio: expected two lists of one length, got shapes {a.shape} and {b.shape}")
    if not (np.isfinite(a) & np.isfinite(b) & (a > 0) & (b > 0)).all():
        raise InputError("geometric_mean_ratio: every value must be positive and finite; censor them before")
    if not len(a):
        return Ratio(math.nan, math.nan, math.nan)
    logs = np.log(a) - np.log(b)
    drawn, label = bootstrap_rows(clusters, len(a), resamples=resamples, seed=seed)
    value = float(np.exp(logs.mean()))
    if label.max() < 1:
        return Ratio(value, math.nan, math.nan)
    lo, hi = _ends(np.exp(drawn @ logs / drawn.sum(axis=1)), _expanded(tail, int(label.max()) + 1))
    return Ratio(value, lo, hi)


def _expanded(tail: float, count: int) -> float:
    """The percentile that misses with `tail` when `count` clusters are drawn: a bootstrap of few is too narrow.

    Expanded percentiles (T. Hesterberg, The American Statistician 69 (2015), 371-386): Student's quantile with
    count - 1 degrees of freedom, times sqrt(count / (count - 1)), back through the normal distribution.
    """
    reach = math.sqrt(count / (count - 1)) * float(scipy.stats.t.isf(tail, count - 1))
    return float(scipy.stats.norm.sf(reach))


def _ends(draws: np.ndarray, tail: float) -> tuple[float, float]:
    # Order statistics instead of interpolation: between a number and infinity there is nothing to interpolate.
    lo = np.quantile(draws, tail, method="lower")
    hi = np.quantile(draws, 1 - tail, method="higher")
    return float(lo), float(hi)


def _sizes(clusters: ArrayLike, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(the number of each prompt's cluster, int [N]; how many prompts each cluster has, float [C])."""
    clusters = np.asarray(clusters)
    if clusters.shape != (n,):
        raise InputError(f"clusters: expected one label for each of {n} prompts, got shape {clusters.shape}")
    _, label, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    return label, sizes.astype(np.float64)
