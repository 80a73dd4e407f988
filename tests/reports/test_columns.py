"""Tables as people read them: titles, counts, intervals in one cell, a legend that leads back to the CSV."""

import doctest

import numpy as np
import pandas as pd
import pytest

from latent_audit import text as shares
from latent_audit.metrics import stats
from latent_audit.reports import columns
from latent_audit.text import counted, share_of


def test_the_examples_hold():
    found = doctest.testmod(shares)
    assert found.attempted and not found.failed


def test_a_count_comes_with_its_share_and_its_interval():
    lo, hi = stats.wilson_interval(0, 24)
    assert counted(0, 24, lo, hi) == "0 of 24 (0 %, at most 14 %)"
    table = pd.DataFrame(
        {"variant": ["a", "b", "c"], "compliance": [0.0, 1 / 6, np.nan], "compliance_lo": [lo, 0.067, np.nan]}
        | {"compliance_hi": [hi, 0.359, np.nan], "compliance_count": [0, 4, np.nan], "n": 24}
    )
    found = columns.readable(table)
    assert found.columns == [("variant", False), ("complies (95 % interval)", True)]
    assert found.rows == [["a", "0 of 24 (0 %, at most 14 %)"], ["b", "4 of 24 (17 %, 6 to 36 %)"], ["c", "\u2013"]]
    assert found.legend == {"complies (95 % interval)": "compliance, compliance_lo, compliance_hi"}


@pytest.mark.parametrize("n", [1, 7, 1000])
def test_intervals_in_words_hold_the_interval(n):
    for successes in {0, 1, n // 2, n}:
        lo, hi = stats.wilson_interval(successes, n)
        text = share_of(successes, n, lo, hi)
        assert counted(successes, n, lo, hi) == f"{successes} of {n} ({text})"
        ends = [int(word) for word in text.split(", ")[1].split() if word.isdigit()]
        if 0 < successes < n:
            assert ends[0] <= 100 * lo and 100 * hi <= ends[1]
        elif successes == 0:
            assert 100 * hi <= ends[0] < 100 * hi + 1 and "at most" in text
        else:
            assert 100 * lo - 1 < ends[0] <= 100 * lo and "at least" in text


def test_a_share_without_its_count_is_never_turned_back_into_one():
    table = pd.DataFrame({"measure": ["l2_asr"], "value": [0.25], "lo": [0.1], "hi": [0.5], "n": [8]})
    found = columns.readable(table)
    assert found.rows == [["success of the L2 attack", "0.25 (0.1 to 0.5)", "8"]]
    mixed = pd.concat([table, table.assign(successes=2)], ignore_index=True)
    assert columns.readable(mixed).rows[1] == ["success of the L2 attack", "2 of 8 (25 %, 10 to 50 %)", "8"]
    assert [head for head, _ in columns.readable(mixed).columns] == ["measure", "value (95 % interval)", "prompts"]


def test_a_share_that_has_no_count_at_all_is_told_in_percent():
    table = pd.DataFrame({"asr": [0.0052, 0.5], "asr_lo": [0.0009, np.nan], "asr_hi": [0.0289, np.nan], "fell": 1.0})
    assert columns.readable(table).rows == [["1 % (0 to 3 %)", "100 %"], ["50 %", "100 %"]]


def test_bare_ends_belong_to_the_one_value_there_is():
    table = pd.DataFrame({"here": [1.0], "difference": [0.5], "lo": [0.25], "hi": [0.75]})
    found = columns.readable(table)
    assert [head for head, _ in found.columns] == ["here", "difference (95 % interval)"]
    assert found.rows == [["1", "0.5 (0.25 to 0.75)"]]


def test_no_title_is_a_raw_name_and_the_legend_leads_back():
    names = [*columns.TITLES, "some_new_column", "exp", "x", "x_lo", "x_hi"]
    table = pd.DataFrame({name: [1.0] for name in dict.fromkeys(names)})
    found = columns.readable(table)
    assert not [head for head, _ in found.columns if "_" in head]
    shown = {name for listed in found.legend.values() for name in listed.split(", ")}
    assert shown | {head for head, _ in found.columns} >= set(table.columns)
    assert found.legend["some new column"] == "some_new_column"
    assert len(set(columns.TITLES.values())) == len(columns.TITLES), "two columns under one title"


def test_measures_and_attacks_are_told_in_words():
    table = pd.DataFrame(
        {"exp": ["clean", "clean-benign"], "attack": ["pgd", "mine_own"], "measure": ["gcg_asr", "ras"]}
    )
    found = columns.readable(table)
    assert found.rows == [
        ["harmful requests, asked", "PGD", "success of the discrete attack"],
        ["harmless requests, asked", "mine own", "RAS"],
    ]
    assert found.legend["PGD"] == "pgd" and found.legend["mine own"] == "mine_own"


def test_a_terminal_gets_the_same_cells_and_one_line_a_row():
    evil = "a\x1b[31m\nerror: all fine\u202e"
    table = pd.DataFrame({"variant": [evil, "b"], "lvs": [0.5, np.nan], evil: ["x", "y"]})
    text = columns.in_text(table)
    assert len(text.splitlines()) == 3 and text.isprintable() is False and "\x1b" not in text and "\u202e" not in text
    assert text.replace("\n", "").isprintable() and "LVS" in text.splitlines()[0]
    widths = {len(line) for line in columns.in_text(pd.DataFrame({"n": [1, 200], "x": [0.5, 12.0]})).splitlines()}
    assert len(widths) == 1, "numbers end in one column"


def test_no_rows_are_no_fault():
    assert columns.readable(pd.DataFrame({"variant": [], "lvs": []})).rows == []
    assert columns.in_text(pd.DataFrame({"variant": []})) == "variant"


def test_a_score_that_does_not_apply_is_not_a_dash():
    table = pd.DataFrame(
        {"lvs": [0.5, np.nan, np.nan], "lvs_lo": [0.2, np.nan, np.nan], "lvs_hi": [0.7, np.nan, np.nan]}
        | {"lvs_applicable": [True, False, True], "asr": [0.5, 1.0, 0.0]}
    )
    for flags in (table["lvs_applicable"], table["lvs_applicable"].astype(object)):
        found = columns.readable(table.assign(lvs_applicable=flags))
        assert [row[0] for row in found.rows] == ["0.5 (0.2 to 0.7)", "n/a", "\u2013"]
        assert [head for head, _ in found.columns] == ["LVS (95 % interval)", "attack success"]


def test_the_count_of_what_fell_is_of_those_with_something_to_lose():
    lo, hi = stats.wilson_interval(2, 5)
    fell = {
        "reward_fell": [0.4],
        "reward_fell_lo": [lo],
        "reward_fell_hi": [hi],
        "reward_fell_count": [2],
        "lvs_n": [5],
    }
    assert columns.readable(pd.DataFrame(fell)).rows == [["2 of 5 (40 %, 11 to 77 %)"]]
