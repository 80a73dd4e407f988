"""The difference of two measures that were taken apart, from the interval of each."""

import math


def difference_interval(a: tuple[float, float, float], b: tuple[float, float, float]) -> tuple[float, float, float]:
    """(difference, lo, hi) of two independent measures, each (value, lo, hi), from their own intervals.

    Newcombe's square-and-add (1998): each end is as far from the difference as the two distances that move it there,
    added as squares. NaN where an end is.
    """
    (value, lo, hi), (other, other_lo, other_hi) = a, b
    difference = value - other
    below, above = math.hypot(value - lo, other_hi - other), math.hypot(hi - value, other - other_lo)
    return difference, difference - below, difference + above
