"""The budget at which prompts fall: its median over prompts; docs/method.md section 2.

All of this is ours [O]. A search leaves each prompt a bracket (lo, hi]: it stood at lo and fell at hi. lo = 0 says that
it fell at the smallest budget tried (left-censored), hi = inf that it never fell and lo is the largest tried
(right-censored). Budgets are relative, whatever mode the attack scales them by.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from latent_audit.errors import InputError
from latent_audit.metrics import stats


class BreakBudget(NamedTuple):
    """The smallest known budget at which half of `n` prompts have fallen.

    value: inf where fewer than half fell up to the largest budget; lo, hi: its bootstrap interval, ends may be inf.
    above: half had not fallen there yet, so that what the search could resolve is (above, value]; 0 where value is the
      smallest budget tried, and the true one may be smaller still.
    fallen: prompts that fell at all. All NaN where n is 0; the interval also where n is 1.
    """

    value: float
    lo: float
    hi: float
    above: float
    fallen: int
    n: int


def break_budget(
    lo: ArrayLike, hi: ArrayLike, *, resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> BreakBudget:
    """The break budget of a panel: the median of the upper ends, the lower of two middle ones.

    With that median half of the prompts have fallen, and it is a budget that was tried. The interval is a percentile
    bootstrap over prompts, of order statistics: between a budget and infinity there is nothing to interpolate.

    Args:
      lo, hi: float [N], each prompt's bracket, 0 <= lo < hi <= inf.
    Raises InputError on anything else.
    """
    stats.check_resampling(resamples, confidence)
    lo, hi = _brackets(lo, hi)
    n, fallen = len(hi), int(np.isfinite(hi).sum())
    if n == 0:
        return BreakBudget(*(float("nan"),) * 4, 0, 0)
    ends = (float("nan"),) * 2
    if n > 1:
        draws = _half(hi[stats.resampled_rows(n, resamples, seed)])
        tail = (1 - confidence) / 2
        ends = (float(np.quantile(draws, tail, method="lower")), float(np.quantile(draws, 1 - tail, method="higher")))
    return BreakBudget(float(_half(hi)), *ends, float(_half(lo)), fallen, n)


def _half(ends: np.ndarray) -> np.ndarray:
    """The smallest of `ends` [..., N] that at least half of them do not exceed."""
    middle = (ends.shape[-1] - 1) // 2
    return np.partition(ends, middle, axis=-1)[..., middle]


def _brackets(lo: ArrayLike, hi: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    lo, hi = np.asarray(lo, np.float64), np.asarray(hi, np.float64)
    if lo.ndim != 1 or lo.shape != hi.shape:
        raise InputError(f"brackets: expected one lower and one upper end per prompt, got {lo.shape} and {hi.shape}")
    bad = np.flatnonzero(~((lo >= 0) & (lo < hi)))
    if len(bad):
        raise InputError(
            f"brackets: prompt {bad[0]} has ({lo[bad[0]]:g}, {hi[bad[0]]:g}], expected "
            "0 <= lo < hi, hi = inf where it never fell"
        )
    return lo, hi
