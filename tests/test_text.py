"""Foreign text as it is shown: nothing a terminal, a line-based log or a spreadsheet would act on."""

import csv
import io
import unicodedata

import pytest

from latent_audit.errors import InputError
from latent_audit.text import cell, printable


@pytest.mark.parametrize(
    "text, shown",
    [
        ("plain = 1", "plain = 1"),
        ("caf\u00e9 \u4f60\u597d \U0001f642 a\u0301", "caf\u00e9 \u4f60\u597d \U0001f642 a\u0301"),
        ("\x1b[2Jfine", "\\x1b[2Jfine"),
        ("error\nerror: all fine", "error\\nerror: all fine"),
        ("a\r\tb\0\x7f\x9b", "a\\r\\tb\\x00\\x7f\\x9b"),
        ("\u202eegral", "\\u202eegral"),
        ("a\u200bb\u2066c\ufeff", "a\\u200bb\\u2066c\\ufeff"),
        ("\ud800", "\\ud800"),
        ("\u2028\u2029\u0085", "\\u2028\\u2029\\x85"),
        ("\U000e0041", "\\U000e0041"),
        ("", ""),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown
    assert str(InputError(text)) == shown


def test_no_character_that_acts_gets_through():
    letters = [
        chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    ]
    assert len(letters) > 2000
    shown = printable("".join(letters))
    assert shown.isascii() and shown.isprintable()
    shown.encode()


def test_kept_and_cut():
    assert printable("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"
    assert printable("a" * 10, most=10) == "a" * 10
    assert printable("a" * 11, most=10) == "a" * 7 + "..."
    # The escapes count: what is shown has the length that was asked for.
    assert len(printable("\0" * 10, most=10)) == 10


@pytest.mark.parametrize(
    "text, shown",
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+SUM(A1)", "'+SUM(A1)"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1+1", "'\\t=1+1"),
        ("\r=1+1", "'\\r=1+1"),
        ("\n=1+1", "\\n=1+1"),
        ("-", "'-"),
        ("-0.5\n+1", "'-0.5\\n+1"),
        ("plain", "plain"),
        ("a=1", "a=1"),
        ("", ""),
    ],
)
def test_cells_are_no_formulas(text, shown):
    assert cell(text) == shown


@pytest.mark.parametrize("number", ["-0.5", "+3", "-1e-05", "1.5E+10", "-.5", "-3.", "inf", "-inf", "nan", "0"])
def test_numbers_are_untouched(number):
    assert cell(number) == number
    assert float(cell(number)) == pytest.approx(float(number), nan_ok=True)


def test_a_row_stays_a_row():
    foreign = ['a"b', "a,b", "a\nb", "=1", "\u202e"]
    written = io.StringIO()
    csv.writer(written).writerow([cell(text) for text in foreign])
    assert written.getvalue().count("\n") == 1
    (row,) = csv.reader(io.StringIO(written.getvalue()))
    assert row == ['a"b', "a,b", "a\\nb", "'=1", "\\u202e"]
