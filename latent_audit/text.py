"""Foreign text made fit to show: names, tensors, templates and error messages of others, in terminal, table and page.

A control character can clear a screen, a bidirectional mark can turn a sentence round, a line break can forge one of
ours, and a spreadsheet runs a cell that begins with =.
"""

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
