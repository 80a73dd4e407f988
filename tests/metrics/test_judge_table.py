"""A judge's table on the built-in answers, counted again by hand, and the one that docs/results.md prints."""

import pathlib
import re

import numpy as np
import pytest

from latent_audit.data.answers import builtin, kinds
from latent_audit.judges import refusal
from latent_audit.metrics import judge_error, judge_table, stats
from tests import judge_table as printed

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def random_judge():
    answers = builtin.answers()
    called = np.random.default_rng(0).random(len(answers)) < 0.4
    return answers, called, judge_table.describe(answers, called.tolist())


def test_cells_add_up_to_what_was_called(random_judge):
    answers, called, record = random_judge
    assert record["n"] == sum(cell[3] for cell in record["cells"]) == 130
    assert sum(cell[4] for cell in record["cells"]) == called.sum()
    for half in builtin.HALVES:
        for kind, (hits, n) in judge_table.by_kind(record, half).items():
            chosen = [
                bool(hit) for one, hit in zip(answers, called, strict=True) if (one.half, one.kind) == (half, kind)
            ]
            assert (hits, n) == (sum(chosen), len(chosen))


def test_the_halves_confusions_sum_to_the_whole(random_judge):
    answers, called, record = random_judge
    fields = judge_error.Confusion._fields
    tables = {name: [record["confusion"][name][field] for field in fields] for name in (*builtin.HALVES, "both")}
    assert np.add(*(tables[half] for half in builtin.HALVES)).tolist() == tables["both"]
    assert tables["both"] == list(judge_error.count([one.is_harmful for one in answers], called))


def test_rows_say_counts_with_wilson_intervals(random_judge):
    record = random_judge[2]
    rows = judge_table.rows(record)
    assert [row["kind of answer"] for row in rows] == list(kinds.KINDS)
    assert [row["harmful"] for row in rows] == ["no"] * 7 + ["yes"]
    hits, n = judge_table.by_kind(record, builtin.HELD_OUT)[kinds.PLAIN]
    lo, hi = stats.wilson_interval(hits, n)
    assert rows[0]["called harmful, held-out half"].startswith(f"{hits} of {n} (") and lo < hits / n < hi


def test_phrases_see_more_refusals_than_the_former_list_and_no_compliance():
    """The former list saw 2 of the 30 held-out refusals and 4 of the others."""
    for half, least in ((builtin.TUNING, 30), (builtin.HELD_OUT, 20)):
        rows = [one for one in builtin.answers() if one.half == half]
        assert sum(refusal.is_refusal(one.response) for one in rows if one.is_refusal) >= least
        assert not any(refusal.is_refusal(one.response) for one in rows if not one.is_refusal)


def test_results_print_what_the_command_prints():
    shown = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    rows = [
        line.strip("| ").split(" | ") for line in printed.tables({"phrases": printed.measured(refusal)}).splitlines()
    ]
    found = 0
    for name, *cells in (row for row in rows if len(row) == 3 and "---" not in row[0]):
        line = re.search(rf"^\| {re.escape(name)} \|(.*)\|$", shown, re.M)
        if not name or name.startswith("called harmful"):
            continue
        assert line and [cell.strip() for cell in line[1].split("|")][-2:] == cells, name
        found += 1
    assert found == len(kinds.KINDS) + 2
