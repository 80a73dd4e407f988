"""Onset of compliance under fine-tuning: when a curve first reaches a level, and the median of several curves.

docs/method.md section 5, arXiv 2606.08044. A curve that never gets there is censored: its onset is later than its last
step, however much later.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from latent_audit.errors import InputError


class Onset(NamedTuple):
    """The median onset of n curves and an interval for it; None where it lies behind the last step.

    The interval runs from the earliest to the latest onset; `coverage` is the probability, 1 - 2^(1 - n), with which
    the range of n draws holds the median of whatever they are drawn from: .75 for three seeds. mean, sd: over the
    curves, as arXiv 2606.08044's table has them; None where one curve never got there, which has no mean. sd is the
    sample's (ddof 1), None for a single curve.
    """

    median: float | None
    lo: float | None
    hi: float | None
    reached: int
    n: int
    coverage: float
    mean: float | None = None
    sd: float | None = None


def onset(steps: ArrayLike, compliance: ArrayLike, level: float) -> int | None:
    """The first of the evaluated `steps` (ascending) whose compliance is at least `level`; None if none is.

    >>> onset([0, 5, 10], [0.1, 0.5, 0.4], level=0.5)
    5
    """
    steps, compliance = np.asarray(steps), np.asarray(compliance, float)
    if len(steps) != len(compliance) or not len(steps) or (np.diff(steps) <= 0).any():
        raise InputError("onset: expected as many compliances as steps, at least one, steps ascending")
    reached = np.flatnonzero(compliance >= level)
    return int(steps[reached[0]]) if len(reached) else None


def summarise(onsets: Sequence[float | None]) -> Onset:
    """Median (of two middle ones their mean) with its interval, mean and sd over curves; `onsets`: steps, None if
    censored."""
    if not len(onsets):
        raise InputError("onset: no curve to summarise")
    known = np.sort([np.inf if one is None else float(one) for one in onsets])
    middle = known[[(len(known) - 1) // 2, len(known) // 2]]
    median, lo, hi = (None if np.isinf(value) else float(value) for value in (middle.mean(), known[0], known[-1]))
    whole = bool(np.isfinite(known).all())
    mean = float(known.mean()) if whole else None
    sd = float(known.std(ddof=1)) if whole and len(known) > 1 else None
    return Onset(median, lo, hi, int(np.isfinite(known).sum()), len(known), 1 - 2.0 ** (1 - len(known)), mean, sd)
