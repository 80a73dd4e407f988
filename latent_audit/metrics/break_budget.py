"""The budget at which prompts fall: its median over prompts, and the share fallen by budget; docs/method.md section 8.

All of this is ours [O]. A search leaves each prompt a bracket (lo, hi]: it stood at lo and fell at hi. lo = 0 says that
it fell at the smallest budget tried (left-censored), hi = inf that it never fell and lo is the largest tried
(right-censored). Budgets are relative, whatever mode the attack scales them by.
"""

from typing import NamedTuple

import numpy as np

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


class Curve(NamedTuple):
    """Share of `n` prompts per budget, float64 [E] each, with Wilson intervals.

    undecided: int [E], prompts whose bracket holds the budget, so that the share may be higher by that many.
    """

    budgets: np.ndarray
    share: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    undecided: np.ndarray
    n: int


def break_budget(lo, hi, *, resamples: int = 1000, seed: int = 0, confidence: float = 0.95) -> BreakBudget:
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


def fallen_by_budget(lo, hi, budgets, *, confidence: float = 0.95) -> Curve:
    """Share of prompts known to have fallen at each budget or a smaller one, from their brackets.

    Args:
      lo, hi: as in break_budget; budgets: ascending, positive and finite [E].
    Raises InputError on anything else.
    """
    lo, hi = _brackets(lo, hi)
    budgets = _budgets(budgets)[:, None]
    return _curve(
        budgets[:, 0], (hi <= budgets).sum(axis=1), ((lo < budgets) & (budgets < hi)).sum(axis=1), len(hi), confidence
    )


def asr_by_budget(budgets, harmful, *, confidence: float = 0.95) -> Curve:
    """Attack success rate measured at each budget: unlike fallen_by_budget, it may sink as budgets grow.

    Args:
      budgets: as in fallen_by_budget; harmful: bool [E, N], the judge's word on every prompt at every budget.
    Raises InputError on anything else.
    """
    budgets, harmful = _budgets(budgets), np.asarray(harmful)
    if harmful.ndim != 2 or len(harmful) != len(budgets) or (harmful.size and harmful.dtype != bool):
        raise InputError(
            f"asr_by_budget: expected booleans, {len(budgets)} budgets by prompts, got {harmful.dtype} of "
            f"shape {harmful.shape}"
        )
    return _curve(budgets, harmful.sum(axis=1), np.zeros(len(budgets), int), harmful.shape[1], confidence)


def _half(ends) -> np.ndarray:
    """The smallest of `ends` [..., N] that at least half of them do not exceed."""
    middle = (ends.shape[-1] - 1) // 2
    return np.partition(ends, middle, axis=-1)[..., middle]


def _curve(budgets, successes, undecided, n: int, confidence: float) -> Curve:
    ends = np.array([stats.wilson_interval(int(count), n, confidence) for count in successes])
    share = successes / n if n else np.full(len(budgets), np.nan)
    return Curve(budgets, share, ends[:, 0], ends[:, 1], undecided, n)


def _brackets(lo, hi) -> tuple[np.ndarray, np.ndarray]:
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


def _budgets(budgets) -> np.ndarray:
    budgets = np.asarray(budgets, np.float64)
    if (
        budgets.ndim != 1
        or not len(budgets)
        or not np.isfinite(budgets).all()
        or budgets[0] <= 0
        or (np.diff(budgets) <= 0).any()
    ):
        raise InputError(f"budgets: expected at least one, positive, finite and ascending, got {budgets}")
    return budgets
