"""Two outcomes on the same prompts: how far their shares differ, and whether more than chance would have it."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from latent_audit.errors import InputError
from latent_audit.metrics import stats


class PairedShares(NamedTuple):
    """Two shares over the same `n` prompts.

    only_a, only_b: the discordant prompts, b and c of McNemar's table; difference: share_a - share_b, with [lo, hi];
    p_value: McNemar's exact test, two-sided. Shares, difference and interval are NaN where n is 0.
    """

    n: int
    share_a: float
    share_b: float
    only_a: int
    only_b: int
    difference: float
    lo: float
    hi: float
    p_value: float


def compare_shares(a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95) -> PairedShares:
    """Compare two boolean outcomes of the same prompts.

    A bootstrap would claim certainty where no prompt is discordant, which is common here; hence Newcombe's interval.

    Args:
      a, b: bool [N] (or 0 and 1).
    Raises InputError on unequal lengths, other values, or a confidence outside (0, 1).
    """
    p_value = stats.mcnemar_exact(a, b)
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    n, both, neither = len(a), int((a & b).sum()), int((~a & ~b).sum())
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    lo, hi = newcombe_interval(both, only_a, only_b, neither, confidence)
    share_a, share_b, difference = (
        count / n if n else math.nan for count in (both + only_a, both + only_b, only_a - only_b)
    )
    return PairedShares(n, share_a, share_b, only_a, only_b, difference, lo, hi, p_value)


def newcombe_interval(
    both: int, only_a: int, only_b: int, neither: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the difference of two paired shares, (only_a - only_b) / n, from the counts of the four outcomes.

    Method 10 of R. G. Newcombe, Statistics in Medicine 17 (1998), 2635-2650: the Wilson intervals of the two shares,
    joined through their correlation phi (with his continuity correction). Returns (nan, nan) where n is 0. Raises
    InputError on a negative count.
    """
    if min(both, only_a, only_b, neither) < 0:
        raise InputError(
            f"newcombe_interval: counts must not be negative, got {both}, {only_a}, {only_b} and {neither}"
        )
    n = both + only_a + only_b + neither
    below_a, above_a = _reach(both + only_a, n, confidence)
    below_b, above_b = _reach(both + only_b, n, confidence)
    if n == 0:
        return math.nan, math.nan
    difference = (only_a - only_b) / n
    phi = _phi(both, only_a, only_b, neither)
    lo = difference - _joined(below_a, above_b, phi)
    hi = difference + _joined(above_a, below_b, phi)
    return lo, hi


def _reach(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """How far the Wilson interval of a share reaches below and above it."""
    lo, hi = stats.wilson_interval(successes, n, confidence)
    share = successes / n if n else math.nan
    return share - lo, hi - share


def _joined(one: float, other: float, phi: float) -> float:
    # (one - other)^2 at phi = 1: rounding must not make it negative.
    return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))


def _phi(both: int, only_a: int, only_b: int, neither: int) -> float:
    """Correlation of the two outcomes; 0 where one never varies. A positive one is shrunk by n / 2, at most to 0."""
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if margins == 0:
        return 0.0
    covariance = float(both * neither - only_a * only_b)
    if covariance > 0:
        covariance = max(0.0, covariance - (both + only_a + only_b + neither) / 2)
    return covariance / math.sqrt(margins)
