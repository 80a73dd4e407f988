"""Parts of a split as the `datasets` library writes them: train[:400], train[200:250], test[:10%]."""

import re

from latent_audit.errors import InputError

_FORM = re.compile(r"(?P<split>[^\[\]]*)(?:\[(?P<start>-?\d{1,9}%?)?:(?P<stop>-?\d{1,9}%?)?\])?")


def parse(field: str, text: str) -> tuple[str, str, str]:
    """ "train[:400]" -> ("train", "", "400"); InputError for another form, such as several splits joined by +.

    >>> parse("split", "train[:400]"), parse("split", "test")
    (('train', '', '400'), ('test', '', ''))
    """
    found = _FORM.fullmatch(text.strip())
    if found is None or "+" in text:
        raise InputError(f"{field} = {text!r:.100}, expected one split with or without a part: train, or train[:400]")
    return found["split"], found["start"] or "", found["stop"] or ""


def rows_of(field: str, start: str, stop: str, count: int) -> slice:
    """The rows, of `count`, that a part means; percents are rounded to the nearest row, negatives count from the end.

    Raises InputError for a row that is not there, as `datasets` does, and for a part without rows.
    """
    first, last = _row(field, start, count, 0), _row(field, stop, count, count)
    if first >= last:
        raise InputError(f"{field}: no row of {count} is in [{start}:{stop}]; give another part")
    return slice(first, last)


def _row(field: str, text: str, count: int, otherwise: int) -> int:
    if not text:
        return otherwise
    is_share = text.endswith("%")
    number = int(text.removesuffix("%"))
    most = 100 if is_share else count
    if abs(number) > most:
        raise InputError(f"{field}: {text} is beyond the {most}{' %' if is_share else ' rows'} that there are")
    place = round(count * number / 100) if is_share else number
    return place + count if text.startswith("-") else place
