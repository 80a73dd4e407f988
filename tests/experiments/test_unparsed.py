"""Replies that cannot be read: counted with their interval, warned of, and no label where they are many."""

import math

import pandas as pd
import pytest

from latent_audit.experiments.audit.card import verdicts
from latent_audit.experiments.judging import unparsed
from latent_audit.judges import PHRASES, UNTESTED, Judge
from tests.support.jobs import hand_bench


def rows(flags):
    return pd.DataFrame({"unparsed": [flag == "1" for flag in flags]})


def wilson(hits, n, z=1.959963984540054):
    middle, half = hits / n + z * z / (2 * n), z * math.sqrt(hits / n * (1 - hits / n) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def test_the_share_has_its_interval_and_rows_of_an_earlier_version_have_none():
    found = unparsed.share_of(rows("1000"))
    assert list(found.values()) == pytest.approx([0.25, *wilson(1, 4)]) and tuple(found) == unparsed.COLUMNS
    assert unparsed.share_of(pd.DataFrame({"judged": [True]})) == {}


def test_every_experiment_and_variant_has_a_line():
    measured = {
        "panel": {"base": rows("0010"), "tuned": rows("0000")},
        "static": {"base": pd.DataFrame({"auroc": [1.0]})},
        "l2": {"base": pd.DataFrame({"unparsed": [True, None, False]})},
    }
    lines = unparsed.lines_of(measured)
    assert [(line["variant"], line["detail"], line["successes"], line["n"]) for line in lines] == [
        ("base", "panel", 1, 4),
        ("tuned", "panel", 0, 4),
        ("base", "l2", 1, 2),
    ]
    assert {line["measure"] for line in lines} == {unparsed.MEASURE}
    assert (lines[0]["value"], lines[0]["lo"], lines[0]["hi"]) == pytest.approx((0.25, *wilson(1, 4)))


def table(hits, n):
    line = {"measure": unparsed.MEASURE, "variant": "base", "n": n, "successes": hits}
    return pd.DataFrame([line, line | {"variant": "tuned", "successes": 0}])


@pytest.mark.parametrize("hits, n, many", [(0, 100, False), (1, 100, False), (2, 100, True), (100, 100, True)])
def test_a_model_with_many_gets_no_label_and_any_is_warned_of(hits, n, many):
    assert bool(unparsed.doubts(table(hits, n), "base")) == many and not unparsed.doubts(table(hits, n), "tuned")
    said = unparsed.warning(table(hits, n))
    assert len(said) == bool(hits) and all(f"{hits} of {2 * n}" in text for text in said)
    none = pd.DataFrame({"measure": ["lvs"], "variant": ["base"]})
    assert unparsed.doubts(none, "base") == () and unparsed.warning(none) == []


def test_what_caps_a_verdict(tmp_path):
    bench = hand_bench(tmp_path)
    judges = {
        (): Judge("hand", False, None),
        (UNTESTED,): Judge("hand", False, None, is_untested=True),
        (PHRASES,): Judge("hand", True, None),
    }
    empty = pd.DataFrame(columns=["measure", "variant", "detail", "successes", "n", "lo", "hi", "value"])

    def caps(judge, lines, suite=None, **inputs):
        made = hand_bench(tmp_path, judge=judge, inputs=bench.inputs | inputs)
        return verdicts._evidence(made, lines, None, "base", suite, []).caps

    for expected, judge in judges.items():
        assert caps(judge, empty) == expected
    (many,) = caps(judges[()], pd.concat([empty, table(50, 100)]))
    assert "cannot be read on 50 of 100" in many
    twice = {"judged_again": {"first": "small", "searched_by_first": ["base/suite/p00000"]}}
    assert caps(judges[()], empty, **twice) == ()
    suite = verdicts.suite_of(
        {
            "budgets": [0.1],
            "prompt": [0],
            "radius": [None],
            "incoherent": [0.0],
            "gates": [],
            "tried": 1,
            "cluster": [0],
        },
        None,
        "",
    )
    (searched,) = caps(judges[()], empty, suite, **twice)
    assert "judged by the live judge alone (small)" in searched
