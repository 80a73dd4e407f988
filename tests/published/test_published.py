"""Published tables, made up in their shape: what is read, counted, set beside a run, refused and written."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from latent_audit.commandline import arguments, command, compare_paper
from latent_audit.errors import InputError
from latent_audit.experiments.audit.readings import latent_report
from latent_audit.published import findings, page, read, tables
from latent_audit.runtime import ends, start

BUDGETS = (0.001, 0.005)
# Of 24 prompts, PGD and noise, by variant and budget: all fall, and noise opens the dissociated pole at the larger.
BROKEN = {"base": ((12, 1), (2, 1)), "dissociated": ((20, 2), (3, 15)), "harmful": ((23, 22), (21, 22))}
# As the authors wrote them, docs/method.md section 11.
PUBLISHED = tuple("arch variant exp layer layer_idx budget attack lvs lvs_lo lvs_hi asr frac compliance".split())
LVS = {"base": 0.2, "dissociated": 0.6, "harmful": 0.0}


def metrics(arch="gemma2-2b", blocks=4, shift=0):
    lines = []
    for variant, by_budget in BROKEN.items():
        for state in range(blocks + 1):
            index = "embedding" if state == 0 else state - 1
            layer = "embedding" if state == 0 else f"L{state - 1}"
            common = {"arch": arch, "variant": variant, "layer": layer, "layer_idx": index}
            for budget, counts in zip(BUDGETS, by_budget, strict=True):
                for attack, count in zip(("pgd", "random"), counts, strict=True):
                    score = LVS[variant] if attack == "pgd" else 0.0
                    lines.append(
                        common
                        | {"exp": "lvs", "budget": budget, "attack": attack, "lvs": score, "lvs_lo": 0.8 * score}
                        | {"lvs_hi": 1.2 * score, "asr": round(min(24, count + shift) / 24, 4)}
                    )
            for frac in (0.0, 0.06):
                complied = 22 * (variant == "dissociated" and state == 3 and frac > 0)
                lines.append(common | {"exp": "steering", "frac": frac, "compliance": round(complied / 24, 4)})
    return pd.DataFrame(lines).reindex(columns=PUBLISHED)


def steer_random(arch="gemma2-2b"):
    steered = metrics(arch)
    rows = steered[(steered["exp"] == "steering") & (steered["variant"] != "harmful")]
    return rows.assign(compliance=round(1 / 24, 4), attack="steer_rand")[list(read.STEER_RANDOM)]


def curve(first):
    return pd.DataFrame({"step": [0, 5, 10], "compliance": [0.0, first / 60, 58 / 60], "refusal": 0.0, "empty": 0.0})


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "published"
    for name, table in (
        ("intervention/metric_gemma2-2b.csv", metrics()),
        ("intervention/steer_rand_gemma2-2b.csv", steer_random()),
        ("sft/gemma2-2b-base-pku/trajectory.csv", curve(10)),
        ("sft/gemma2-2b-base-pku/trajectory_s1.csv", curve(14)),
        ("sft/gemma2-2b-dissociated-pku/trajectory.csv", curve(54)),
        ("other/attack_asr.csv", pd.DataFrame({"variant": ["base/pgd"], "n": [100], "asr": [0.03]})),
    ):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(place / name, index=False)
    return place


def run_dir(tmp_path, table, name="run"):
    (tmp_path / name).mkdir()
    table.assign(n=24).to_csv(tmp_path / name / "metrics.csv", index=False)
    return tmp_path / name


def test_the_columns_are_those_of_our_own_table():
    assert read.METRICS == latent_report.COLUMNS[: len(read.METRICS)]


def test_every_cell_has_its_count_its_exact_interval_and_its_control(folder):
    found = read.published(folder)
    assert found.left == ("other/attack_asr.csv",) and len(found.files) == 5
    cell = found.rows.query("variant == 'dissociated' and measure == 'latent_asr' and budget == .005 and state == 2")
    (line,) = cell.to_dict("records")
    assert (line["successes"], line["n"], line["value"], line["layer"]) == (3, 24, 3 / 24, "L1")
    for value, lo, hi in (("value", "lo", "hi"), ("control", "control_lo", "control_hi")):
        there = scipy.stats.binomtest(round(line[value] * 24), 24).proportion_ci(method="exact")
        assert (line[lo], line[hi]) == pytest.approx((there.low, there.high))
    steered = found.rows.query("measure == 'steer_compliance'")
    assert set(steered["variant"][steered["control"].isna()]) == {"harmful"}
    tuned = found.rows.query("measure == 'tuned_compliance' and variant == 'base' and step == 5").iloc[0]
    ends_of = [scipy.stats.binomtest(k, 60).proportion_ci(method="exact") for k in (10, 14)]
    assert (tuned["value"], tuned["lo"], tuned["hi"]) == pytest.approx((0.2, ends_of[0].low, ends_of[1].high))


def test_tables_by_hand(folder):
    found = read.published(folder)
    means = tables.by_budget(found.rows).set_index(["variant", "budget"])
    assert means.loc[("dissociated", 0.005), "states where noise breaks more"] == 5
    assert means.loc[("base", 0.001), "mean ASR"] == pytest.approx(0.5)
    fallen = tables.falls(found.rows).set_index("variant")
    assert fallen.loc["dissociated", "surely lower at"] == 5 and fallen.loc["harmful", "surely lower at"] == 0
    nudged = tables.nudge_layer(found.rows).set_index(["variant", "budget"])
    # Four blocks: the output of block round(2.0) is state 3.
    assert set(nudged["layer"]) == {"L2"} and nudged.loc[("dissociated", 0.005), "ahead"] == "noise"
    assert nudged.loc[("base", 0.001), "ahead"] == "PGD" and nudged.loc[("harmful", 0.001), "ahead"] == "neither surely"
    ratios = tables.lvs_ratios(tables.nudge_layer(found.rows))
    assert ratios["ratio"].tolist() == pytest.approx([3.0, 3.0]) and ratios["apart"].all()
    zero = tables.zero_scores(found.rows).query("variant == 'harmful'")
    assert zero["cells"].sum() == zero["LVS is 0"].sum() == zero["of these ASR at least .5"].sum() == 10
    best = tables.best_steering(found.rows).set_index("variant").loc["dissociated"]
    assert best["layer"] == "L2" and best["compliance_lo"] < scipy.stats.binomtest(22, 24).proportion_ci().low
    onset = tables.onsets(found.curves).set_index(["variant", "level"])["median onset"]
    assert (onset["base", 0.8], onset["dissociated", 0.8]) == ("10", "5")


def test_thirds_are_even_and_cover_all_states():
    for states in (5, 27, 29, 37):
        which = tables.third_of(pd.Series(range(states)), states)
        sizes = which.value_counts()
        assert sizes.sum() == states and sizes.max() - sizes.min() <= 1
        assert list(dict.fromkeys(which)) == list(tables.THIRDS)


def test_what_is_confirmed_and_what_is_not(folder):
    found = read.published(folder)
    yes, no = findings.sentences(findings.summarise(found.rows, found.curves, None))
    assert any("apart in 1 of 1 models" in text for text in yes) and any("1 of 1 pairs" in text for text in yes)
    # Three variants fall from the smaller budget to the larger; noise wins in one cell of six.
    assert "falls for 3 of 3 model variants" in no[0] and "in 1 of 6 cells" in no[1]
    assert any("harmful pole 10 of 10 cells" in text for text in no)


def test_a_run_beside_it_differs_where_it_was_made_to(folder, tmp_path):
    same = page.compare(str(folder), str(run_dir(tmp_path, metrics("google-gemma-2-2b-it"))))
    assert (same.merged["difference"] == 0).all() and len(same.merged) == 90
    other = page.compare(str(folder), str(run_dir(tmp_path, metrics("m", shift=12), "other")))
    table = tables.agreement(other.merged).set_index(["variant", "measure"])
    assert table.loc[("base", "latent_asr"), "run surely higher"] == 10
    assert table.loc[("base", "lvs"), "run surely higher"] == table["run surely lower"].sum() == 0


def test_a_score_that_is_not_there_is_no_cell_and_no_error(folder, tmp_path):
    table = metrics()
    table.loc[table["variant"] == "harmful", ["lvs", "lvs_lo", "lvs_hi"]] = np.nan
    merged = page.compare(str(folder), str(run_dir(tmp_path, table))).merged
    assert set(merged["variant"][merged["measure"] == "lvs"]) == {"base", "dissociated"}
    assert (merged["measure"] == "latent_asr").sum() == 30


def test_steering_of_an_audit_counts_only_along_the_papers_direction(tmp_path, folder):
    place = tmp_path / "audit"
    place.mkdir()
    line = {"arch": "gemma2-2b", "variant": "base", "measure": "steer_compliance", "layer": "L2", "budget": 0.06}
    line |= {"value": 0.25, "control": 0.0, "n": 8}
    pd.DataFrame([line | {"detail": "twin direction"}, line | {"detail": "own direction"}]).to_csv(
        place / "audit.csv", index=False
    )
    (found,) = page.compare(str(folder), str(place)).merged.to_dict("records")
    assert (found["run_value"], found["run_successes"], found["published_value"]) == (0.25, 2, 0.0)


@pytest.mark.parametrize(
    "table, message",
    [
        (metrics().assign(asr=0.3), "no share of 24 prompts"),
        (metrics().assign(lvs="high"), "lvs = 'high' in row 2"),
        (metrics().assign(lvs=-1.0), "at least 0"),
        (metrics().assign(layer_idx="top"), "layer_idx = 'top'"),
        (metrics().drop(columns="asr"), "expected those of metrics.csv"),
        (metrics().drop(columns="frac"), "rows of steering and no column frac"),
        (pd.concat([metrics(), metrics()]), "the files overlap"),
        (metrics().query("exp == 'none'"), "holds no row"),
    ],
)
def test_bad_tables_are_one_line(table, message, tmp_path):
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError) as caught:
        read.published(tmp_path / "t.csv")
    assert message in str(caught.value) and str(caught.value).isprintable()


def test_bad_places_and_nothing_in_common_are_one_line(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "no.csv").write_bytes(b"")
    for csv, run, message in (
        (tmp_path / "none.csv", None, "no such file"),
        (empty, None, "holds no CSV"),
        (tmp_path / "no.csv", None, "no CSV that can be read"),
        (folder / "other", None, "columns are variant, n, asr"),
        (folder / "sft/gemma2-2b-base-pku/trajectory.csv", run_dir(tmp_path, metrics()), "nothing in common"),
        (folder, run_dir(tmp_path, metrics("m", blocks=6), "deep"), "nothing in common: the run is of m"),
        (
            folder,
            run_dir(tmp_path, metrics().query("exp == 'lvs'").eval("budget = 100 * budget"), "far"),
            "nothing in common",
        ),
        (folder, empty, "holds no metrics.csv"),
        (folder, tmp_path / "no.csv", "is no directory"),
    ):
        with pytest.raises(InputError) as caught:
            page.compare(str(csv), None if run is None else str(run))
        assert message in str(caught.value) and str(caught.value).isprintable(), message


def test_the_command_writes_page_table_and_figures(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(start, "start_logging", lambda: None)
    assert command.run(["compare-paper", "published", "--dry-run"], ends.Run()) == 0
    assert "runs/compare-paper-published" in capsys.readouterr().out and not (tmp_path / "runs").exists()
    run_dir(tmp_path, metrics())
    assert command.run(["compare-paper", "run", "published", "--workdir=out"], ends.Run()) == 0
    written = pd.read_csv(tmp_path / "out" / "compare.csv")
    assert {"published_lo", "published_control", "run_lo", "difference_hi"} <= set(written.columns)
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    assert record["task"] == "compare-paper" and record["source"] == read.AUTHORS and len(record["not_confirmed"]) >= 3
    assert (tmp_path / "out" / "figures" / "depth_gemma2-2b.svg").is_file()
    text = (tmp_path / "out" / "report.html").read_text()
    assert "Steering by depth: gemma2-2b" in text and "Agreement of the run" in text
    assert "| model | variant |" in (tmp_path / "out" / "findings.markdown").read_text()
    # Another comparison in the same directory would mix two.
    with pytest.raises(InputError, match="published"):
        command.run(["compare-paper", "published/intervention", "--workdir=out"], ends.Run())


@pytest.mark.parametrize("words", [(), ("a", "b", "c"), ("a", "--config.seed=1")])
def test_other_words_are_refused(words):
    with pytest.raises(InputError, match="takes"):
        compare_paper.run(arguments.read(["compare-paper", *words]), ends.Run(), ())


def test_nothing_is_lost_between_files_and_table(folder):
    found, source = read.published(folder), metrics()
    pushed = source[(source["exp"] == "lvs") & (source["attack"] == "pgd")]
    both = found.rows.query("measure == 'latent_asr'")
    assert np.isclose(both["value"].sum(), pushed["asr"].sum(), atol=1e-2) and len(both) == len(pushed)
