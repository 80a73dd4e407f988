"""How far two scores of the same answers agree in rank, how well one parts two groups; docs/method.md section 9.

No assumption is made about scales: a reward of one kind has other units than one of another.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.stats
from numpy.typing import ArrayLike

from latent_audit.errors import InputError
from latent_audit.metrics import stats

# [O] Of more answers so many are drawn: Kendall's tau of every resample would take minutes.
MOST = 2000
_NEARLY = 1e-9


class Share(NamedTuple):
    """An area under the ROC curve with its 95 % interval; NaN where a group is empty."""

    value: float
    lo: float
    hi: float


class Agreement(NamedTuple):
    """Spearman's rho and Kendall's tau-b of n answers to `clusters` independent prompts, with 95 % intervals.

    NaN where one of the scores is the same everywhere, or not finite; intervals also with fewer than two clusters.
    """

    n: int
    clusters: int
    spearman: float
    spearman_lo: float
    spearman_hi: float
    kendall: float
    kendall_lo: float
    kendall_hi: float


def auc(higher: ArrayLike, lower: ArrayLike, *, confidence: float = 0.95) -> Share:
    """The share of pairs in which a score of `higher` [M] is above one of `lower` [N], ties by half.

    The interval is Newcombe's (2006, method 5): the values that the variance of Hanley and McNeil at themselves, with
    half of M + N - 2 for both of its numbers, does not reject. Unlike a bootstrap it has a width where all pairs are in
    order.

    Of four pairs one is a tie.

    >>> auc([3.0, 2.0], [1.0, 2.0]).value
    0.875
    """
    first, second = (np.asarray(values, np.float64) for values in (higher, lower))
    if not (len(first) and len(second) and np.isfinite(first).all() and np.isfinite(second).all()):
        return Share(float("nan"), float("nan"), float("nan"))
    value = float(scipy.stats.mannwhitneyu(first, second).statistic / (len(first) * len(second)))
    z, weight = float(scipy.stats.norm.isf((1 - confidence) / 2)), (len(first) + len(second)) / 2 - 1

    def too_far(truth: float) -> float:
        spread = 1 + weight * ((1 - truth) / (2 - truth) + truth / (1 + truth))
        return abs(value - truth) - z * float(np.sqrt(truth * (1 - truth) * spread / (len(first) * len(second))))

    # At the value itself nothing is too far, but for 0 and 1, where the variance is 0.
    lo = float(scipy.optimize.brentq(too_far, 0.0, min(value, 1 - _NEARLY))) if value > 0 else 0.0
    hi = float(scipy.optimize.brentq(too_far, max(value, _NEARLY), 1.0)) if value < 1 else 1.0
    return Share(value, lo, hi)


def agreement(one: ArrayLike, other: ArrayLike, clusters: ArrayLike, *, resamples: int, seed: int) -> Agreement:
    """Rank agreement of two scores [N] of the same answers; clusters: int [N], the prompt that each belongs to.

    Intervals are percentile bootstraps over clusters: answers to one prompt are not independent. Of more than MOST
    answers MOST are drawn. Raises InputError on lists of different lengths, or no resamples.
    """
    stats.check_resampling(resamples, 0.95)
    first, second, groups = np.asarray(one, np.float64), np.asarray(other, np.float64), np.asarray(clusters)
    if not len(first) == len(second) == len(groups):
        raise InputError(f"agreement: {len(first)}, {len(second)} scores and {len(groups)} clusters, expected as many")
    rng = np.random.default_rng(seed)
    if len(first) > MOST:
        kept = np.sort(rng.permutation(len(first))[:MOST])
        first, second, groups = first[kept], second[kept], groups[kept]
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    found = []
    for statistic in (_spearman, _kendall):
        drawn = []
        if len(members) > 1:
            for row in stats.resampled_rows(len(members), resamples, np.random.default_rng(seed)):
                rows = np.concatenate([members[place] for place in row])
                drawn.append(statistic(first[rows], second[rows]))
        # A resample whose scores are all the same has no ranks to agree.
        known = [value for value in drawn if np.isfinite(value)]
        ends = np.quantile(known, (0.025, 0.975)) if known else (np.nan, np.nan)
        found += [statistic(first, second), float(ends[0]), float(ends[1])]
    return Agreement(len(first), len(members), *found)


def _ranked(statistic: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[np.ndarray, np.ndarray], float]:
    def of(first: np.ndarray, second: np.ndarray) -> float:
        if len(first) < 2 or not (np.isfinite(first).all() and np.isfinite(second).all()):
            return float("nan")
        if np.ptp(first) == 0 or np.ptp(second) == 0:
            return float("nan")
        return float(statistic(first, second))

    return of


_spearman = _ranked(lambda first, second: scipy.stats.spearmanr(first, second).statistic)
_kendall = _ranked(lambda first, second: scipy.stats.kendalltau(first, second).statistic)
