"""Exact intervals of a share, and of the difference of two measures that were taken apart; numpy and scipy only."""

import math

import scipy.stats

from latent_audit.errors import InputError


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share: covers with at least `confidence` whatever the share, at the price of width.

    Returns (lo, hi); (nan, nan) when n = 0. Raises InputError unless 0 <= successes <= n and 0 < confidence < 1.
    Clopper and Pearson 1934; docs/method.md section 11.

    None of 24: the upper end is 1 - .025^(1/24).

    >>> lo, hi = clopper_pearson(0, 24)
    >>> lo, round(hi, 4)
    (0.0, 0.1425)
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence must lie between 0 and 1, got {confidence}")
    if not 0 <= successes <= n:
        raise InputError(f"clopper_pearson: successes must lie between 0 and n, got {successes} of {n}")
    if n == 0:
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    lo = float(scipy.stats.beta.ppf(tail, successes, n - successes + 1)) if successes else 0.0
    hi = float(scipy.stats.beta.isf(tail, successes + 1, n - successes)) if successes < n else 1.0
    return lo, hi


def difference_interval(a: tuple[float, float, float], b: tuple[float, float, float]) -> tuple[float, float, float]:
    """(difference, lo, hi) of two independent measures, each (value, lo, hi), from their own intervals.

    Newcombe's square-and-add (1998): each end is as far from the difference as the two distances that move it there,
    added as squares. NaN where an end is.
    """
    (value, lo, hi), (other, other_lo, other_hi) = a, b
    difference = value - other
    below, above = math.hypot(value - lo, other_hi - other), math.hypot(hi - value, other - other_lo)
    return difference, difference - below, difference + above
