"""Text made fit to show: that of others (names, tensors, templates, error messages), and shares of counts in words.

A control character can clear a screen, a bidirectional mark can turn a sentence round, a line break can forge one of
ours, and a spreadsheet runs a cell that begins with =.
"""

import math
import re
import unicodedata

# Of Unicode's categories: control, format (bidirectional marks, zero widths), surrogates, line and paragraph breaks.
_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# A spreadsheet takes a cell that begins with one of these for a formula, https://owasp.org/www-community/attacks/CSV_Injection.
_FORMULA = re.compile(r"[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf", re.IGNORECASE)


def printable(text: str, *, keep: str = "", most: int | None = None) -> str:
    r"""`text` with every character that is no sign on paper written as an escape; cut to `most` characters if given.

    keep: such characters that may stay, e.g. "\n\t" for several lines of our own.

    >>> printable("fine\x1b[31m\nerror")
    'fine\\x1b[31m\\nerror'
    """
    if text.isascii() and text.isprintable():
        shown = text
    else:
        shown = "".join(
            letter if letter in keep or unicodedata.category(letter) not in _UNSAFE else _escape(letter)
            for letter in text
        )
    return shown if most is None or len(shown) <= most else shown[: max(0, most - 3)] + "..."


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def cell(text: str) -> str:
    """A table's cell of foreign text: printable, and quoted by ' where a spreadsheet would compute it.

    >>> cell("=1+1"), cell("-0.5")
    ("'=1+1", '-0.5')
    """
    quoted = _FORMULA.match(text) and not _NUMBER.fullmatch(text)
    return ("'" if quoted else "") + printable(text)


def counted(successes: int, n: int, lo: float = math.nan, hi: float = math.nan) -> str:
    """A count as a reader takes it in; lo, hi: ends of the interval of its share.

    >>> counted(0, 24, 0.0, 0.138), counted(4, 24, 0.067, 0.359), counted(24, 24, 0.862, 1.0)
    ('0 of 24 (0 %, at most 14 %)', '4 of 24 (17 %, 6 to 36 %)', '24 of 24 (100 %, at least 86 %)')
    """
    return f"{successes} of {n}" + (f" ({share_of(successes, n, lo, hi)})" if n else "")


def share_of(successes: int, n: int, lo: float = math.nan, hi: float = math.nan) -> str:
    """The share of a count with its interval, of which only the open end is told where all or none succeeded."""
    share = percent(successes / n if n else math.nan)
    if math.isnan(lo) or math.isnan(hi):
        return share
    if successes == 0:
        return f"{share}, at most {at_most(hi)}"
    if successes == n:
        return f"{share}, at least {at_least(lo)}"
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


def at_most(bound: float) -> str:
    """An upper bound as text, rounded up so that it never claims too much; 'unknown' for NaN.

    >>> at_most(0.2501), at_most(0.29), at_least(0.7999)
    ('26 %', '29 %', '79 %')
    """
    return "unknown" if math.isnan(bound) else f"{_up(bound)} %"


def at_least(bound: float) -> str:
    """A lower bound as text, rounded down; 'unknown' for NaN."""
    return "unknown" if math.isnan(bound) else f"{_down(bound)} %"


# The tolerance keeps 0.29 * 100 = 28.999... at 29.
def _down(share: float) -> int:
    return math.floor(100 * share + 1e-9)


def _up(share: float) -> int:
    return math.ceil(100 * share - 1e-9)
