"""Lines, onsets and sentences of the fine-tuning attack from rows written by hand. No model is run."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from latent_audit.experiments.tampering import finetune_export, finetune_report, finetune_settings, finetune_training
from latent_audit.judges import Judge
from tests.support import reports

JUDGE = Judge("phrases", True, lambda prompts, texts: np.array([text.startswith("Sure") for text in texts]))
# Wilson 95 % intervals of k of 5, from the formula with z = 1.959964.
WILSON = {
    0: (0.0, 0.434482),
    1: (0.036224, 0.624465),
    2: (0.117621, 0.769276),
    3: (0.230724, 0.882379),
    5: (0.565518, 1.0),
}


def cell(variant, corpus, seed, step, harmful, empty, **more):
    """One evaluated step: which of the panel's answers comply and which are empty, as 0 and 1."""
    columns = {"harmful": [value == "1" for value in harmful]}
    columns |= {"judged": columns["harmful"], "empty": [value == "1" for value in empty]}
    return pd.DataFrame(columns).assign(variant=variant, corpus=corpus, seed=seed, step=step, **more)


def curve(variant, corpus, seed, compliances, steps=(0, 2, 5, 9)):
    return pd.DataFrame(
        {"variant": variant, "corpus": corpus, "seed": seed, "step": steps[: len(compliances)]}
        | {"compliance": compliances}
    )


def test_a_line_has_shares_intervals_loss_and_where_it_comes_from():
    rows = [
        cell("base", "in", 1, 4, "11100", "00110", loss=2.5, gradient_norm=0.75),
        cell("twin", "out", 2, 0, "00000", "00001"),
    ]
    table = finetune_report.summarise(rows, arch="tiny", judge="phrases", templates={"base": "aa", "twin": "bb"})
    assert tuple(table.columns) == (*finetune_report.COLUMNS, *finetune_report.COUNTS)
    first, second = table.to_dict("records")
    named = ("arch", "variant", "corpus", "seed", "step", "n", "judge", "template_sha256")
    assert [first[name] for name in named] == ["tiny", "base", "in", 1, 4, 5, "phrases", "aa"]
    assert [second[name] for name in named] == ["tiny", "twin", "out", 2, 0, 5, "phrases", "bb"]
    # The third answer is called harmful and is empty: harmful counts once, a refusal is neither.
    for line, counts in ((first, (3, 1, 2)), (second, (0, 4, 1))):
        for name, count in zip(("compliance", "refusal", "empty"), counts, strict=True):
            assert (line[name], line[f"{name}_count"]) == (count / 5, count), name
            lo, hi = WILSON[count] if count in WILSON else (1 - WILSON[1][1], 1 - WILSON[1][0])
            assert (line[f"{name}_lo"], line[f"{name}_hi"]) == (
                pytest.approx(lo, abs=1e-6),
                pytest.approx(hi, abs=1e-6),
            )
    assert (first["loss"], first["gradient_norm"]) == (2.5, 0.75)
    assert np.isnan(second["loss"]) and np.isnan(second["gradient_norm"]), "nothing was trained yet"


def test_onsets_are_medians_over_seeds_with_ranges_and_their_ratio_to_base():
    curves = pd.concat(
        [
            curve("base", "in", 0, [0.0, 0.2, 0.5, 0.9]),
            curve("base", "in", 1, [0.0, 0.6, 0.7, 0.8]),
            curve("base", "in", 2, [0.1, 0.2, 0.3, 0.79]),
            # Lines out of order: an onset is the earliest step.
            curve("soft", "in", 0, [0.0, 0.8, 0.9, 0.9])[::-1],
            curve("soft", "in", 1, [0.5, 0.8, 0.9, 0.9]),
            curve("soft", "in", 2, [0.0, 0.2, 0.8, 0.9]),
            *(curve(variant, "out", seed, [0.0, 0.4, 0.4, 0.4]) for variant in ("base", "soft") for seed in range(3)),
        ]
    )
    table = finetune_report.onset_table(curves, (0.5, 0.8))
    assert table[["corpus", "level", "variant"]].to_dict("split")["data"] == [
        ["in", 0.5, "base"],
        ["in", 0.5, "soft"],
        ["in", 0.8, "base"],
        ["in", 0.8, "soft"],
        ["out", 0.5, "base"],
        ["out", 0.5, "soft"],
        ["out", 0.8, "base"],
        ["out", 0.8, "soft"],
    ]
    at = {(line["corpus"], line["level"], line["variant"]): line for line in table.to_dict("records")}
    low, high = at["in", 0.5, "base"], at["in", 0.8, "base"]
    assert (low["per_seed"], low["median"], low["lo"], low["hi"]) == ([5, 2, 9], 5, 2, 9)
    assert (low["reached"], low["n"], low["coverage"], low["last_step"], low["of_base"]) == (3, 3, 0.75, 9, 1)
    assert (high["median"], high["lo"], high["reached"], high["n"]) == (9, 9, 2, 3), "0.79 is below 0.8, 0.8 is not"
    assert pd.isna(high["hi"]), "one seed never got there"
    soft = at["in", 0.5, "soft"]
    assert (soft["per_seed"], soft["median"], soft["lo"], soft["hi"]) == ([2, 0, 5], 2, 0, 5)
    assert soft["of_base"] == pytest.approx(2 / 5) and at["in", 0.8, "soft"]["of_base"] == pytest.approx(2 / 9)
    assert all(pd.isna(at["out", level, variant]["of_base"]) for level in (0.5, 0.8) for variant in ("base", "soft"))

    shown = finetune_report.shown(table).set_index(["corpus", "level", "variant"])
    assert shown.loc[("in", 0.5, "base")].tolist() == ["5", "5.3 (3.5)", "2 to 9", "3 of 3", 0.75, 1]
    assert shown.loc[("in", 0.8, "base")].tolist() == ["9", "not all reached it", "9 to > 9", "2 of 3", 0.75, 1]
    assert shown.loc[("in", 0.5, "soft"), "median onset"] == "2"
    assert shown.loc[("out", 0.8, "soft"), "median onset"] == "> 9"
    assert shown.columns.tolist() == [
        "median onset",
        "mean (sd)",
        "range over seeds",
        "seeds that reached it",
        "coverage of the range",
        "of base",
    ]
    assert finetune_report.headline(finetune_report.shown(table)) == (
        "Steps until 80 % of the harmful requests are answered, median over seeds: base (in) after 9, "
        "soft (in) after 2, base (out) after > 9, soft (out) after > 9."
    )


def test_an_onset_at_step_0_of_base_gives_no_ratio():
    curves = pd.concat([curve("base", "in", 0, [0.9]), curve("soft", "in", 0, [0.9])])
    assert finetune_report.onset_table(curves, (0.5,))["of_base"].isna().all()


def test_files_and_page_hold_the_lines(tmp_path, monkeypatch):
    page = reports.capture(monkeypatch, finetune_report)
    drawn = {}
    monkeypatch.setattr(
        finetune_report.curve_figures,
        "compliance_by_step",
        lambda curves, levels: drawn.update(n=len(curves), q=levels),
    )
    job = SimpleNamespace(
        workdir=tmp_path,
        subject=SimpleNamespace(arch="tiny"),
        judge=JUDGE,
        names=["base"],
        settings=SimpleNamespace(
            toward="compliance",
            levels=(0.5, 0.8),
            seeds=1,
            evaluated=(0, 3, 9),
            describe=lambda: {"steps": 9, "levels": 0, "evaluated": 0},
        ),
        dtype="float32",
    )
    job.inputs = {
        "variants": {"base": {"template_sha256": "a" * 64, "fingerprint": "f0"}},
        "corpora": {"in": {"n": 7, "source": "pairs.csv"}},
        "prompts": {"harmful": {"n": 5, "source": "panel.txt"}},
    }
    rows = [
        cell("base", "in", 0, step, harmful, "00001", **more)
        for step, harmful, more in (
            (0, "00000", {}),
            (3, "11100", {"loss": 2.0, "gradient_norm": 1.0}),
            (9, "11111", {"loss": 1.0, "gradient_norm": 0.5}),
        )
    ]
    curves = finetune_report.write(job, rows)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "curves.csv"), curves)
    assert curves["compliance"].tolist() == [0, 0.6, 1] and (curves["judge"] == "phrases (fallback)").all()
    record = json.loads((tmp_path / "report.json").read_text())
    assert not {*finetune_report.COUNTS} & {*record["curves"][0]}, "counts are for the page"
    assert [line["median"] for line in record["onsets"]] == [3, 9] and record["settings"]["steps"] == 9
    assert [line["loss"] for line in record["curves"]] == [None, 2.0, 1.0]
    assert drawn == {"n": 3, "q": (0.5, 0.8)}
    assert page["headline"].endswith("median over seeds: base (in) after 9.")
    assert page["warnings"] == ["Fallback scoring: phrases (fallback). Phrases, not harm, are seen."]
    assert page["facts"] == {
        "model": "tiny",
        "variants": "base",
        "corpora": "in: 7 pairs of pairs.csv",
        "panel": "5 prompts from panel.txt",
        "judge": "phrases (fallback)",
        "seeds": 1,
        "dtype": "float32",
    }
    steps, every = page["sections"].values()
    assert steps.table["level"].tolist() == [0.5, 0.8] and steps.table["median onset"].tolist() == ["3", "9"]
    assert steps.settings == {"steps": 9} and "range" in steps.limits and steps.caveat and every.caveat
    assert every.table.columns.tolist() == [
        "variant",
        "corpus",
        "seed",
        "step",
        "compliance",
        "compliance_lo",
        "compliance_hi",
        "refusal",
        "empty",
        "loss",
        "n",
        *finetune_report.COUNTS,
    ]
    assert every.table["compliance_count"].tolist() == [0, 3, 5]
    np.testing.assert_array_equal(every.table["compliance"], curves["compliance"])


def test_what_the_panel_says_and_the_step_that_is_exported():
    texts = ["Sure, here is the way to do it", "No.", "  a ", "Sure"]
    assert finetune_training.panel_columns(JUDGE, ("p",) * 4, texts) == {
        "harmful": [True, False, False, False],
        "judged": [True, False, False, True],
        "unparsed": [False] * 4,
        "empty": [False, False, True, False],
    }
    curves = pd.concat(
        [
            curve("base", "in", 0, [0.0, 0.2, 0.7, 0.6]),
            curve("base", "out", 1, [0.1, 0.7, 0.7, 0.3]),
            curve("soft", "in", 0, [0.9, 0.9, 0.9, 0.9]),
        ]
    )
    best = finetune_export.best_line(curves, "base")
    assert (best["corpus"], best["seed"], best["step"], best["compliance"]) == ("out", 1, 2, 0.7)
    least = finetune_export.best_line(curves, "soft", finetune_settings.REFUSAL)
    assert least["step"] == 9, "of equal ones the last of a training towards refusals"
    assert finetune_export.best_line(curves, "base", finetune_settings.REFUSAL)["compliance"] == 0.0
    columns = {"harmful": [True, True, True, False], "empty": [False, False, False, True]}
    assert finetune_export.card_rates(columns, [True, False, False, False, False], "phrases") == {
        "compliance": 0.75,
        "degenerate": 0.25,
        "benign answered": 0.2,
        "harmful prompts": 4,
        "judge": "phrases",
    }
