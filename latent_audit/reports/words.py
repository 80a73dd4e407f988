"""Shares of counted prompts in words: the count first, then the share with its interval."""

import math


def counted(successes: int, n: int, lo: float = math.nan, hi: float = math.nan) -> str:
    """A count as a reader takes it in; lo, hi: ends of the interval of its share.

    >>> counted(0, 24, 0.0, 0.138), counted(4, 24, 0.067, 0.359), counted(24, 24, 0.862, 1.0)
    ('0 of 24 (0 %, at most 14 %)', '4 of 24 (17 %, 6 to 36 %)', '24 of 24 (100 %, at least 86 %)')
    """
    return f"{successes} of {n}" + (f" ({share_of(successes, n, lo, hi)})" if n else "")


def share_of(successes: int, n: int, lo: float = math.nan, hi: float = math.nan) -> str:
    """The share of a count with its interval, of which only the open end is told where all or none succeeded."""
    share = percent(successes / n)
    if math.isnan(lo) or math.isnan(hi):
        return share
    if successes == 0:
        return f"{share}, at most {_up(hi)} %"
    if successes == n:
        return f"{share}, at least {_down(lo)} %"
    return f"{share}, {interval(lo, hi)}"


def percent(share: float) -> str:
    """A share as text, 'unknown' for NaN; what lies strictly between never reads as 0 % or 100 %.

    >>> [percent(share) for share in (0.0, 0.001, 0.25, 0.999, 1.0)]
    ['0 %', '< 0.5 %', '25 %', '> 99.5 %', '100 %']
    """
    if math.isnan(share):
        return "unknown"
    if 0 < share < 0.005:
        return "< 0.5 %"
    if 0.995 < share < 1:
        return "> 99.5 %"
    return f"{100 * share:.0f} %"


def interval(lo: float, hi: float) -> str:
    """An interval of shares as text, '' when unknown; rounded outwards, so that it never claims too much."""
    return "" if math.isnan(lo) or math.isnan(hi) else f"{_down(lo)} to {_up(hi)} %"


# The tolerance keeps 0.29 * 100 = 28.999... at 29.
def _down(share: float) -> int:
    return math.floor(100 * share + 1e-9)


def _up(share: float) -> int:
    return math.ceil(100 * share - 1e-9)
