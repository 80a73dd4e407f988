"""Tables of the latent attack, verdicts, gaps and headlines from rows written by hand."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from latent_audit.experiments.audit import bench, card, latent_report, verdicts
from latent_audit.metrics import lvs, stats
from latent_audit.reports import html
from tests.support.jobs import PLACE, attack_settings, flags, hand_bench, judged_of

CLEAN_REWARD = [4.0, 2.0, 2.0, 0.0]


def clean(panel, harmful, degenerate="0000", answered=None):
    columns = {"prompt": range(4), "harmful": flags(harmful), "degenerate": flags(degenerate), "reward": CLEAN_REWARD}
    columns |= {} if answered is None else {"answered": flags(answered)}
    return pd.DataFrame(columns).assign(exp=f"clean-{panel}", state=-1)


def cell(state, budget, attack, harmful, reward, l2=1.0, first=2.0, last=(1.0, 1.0, 1.0, 3.0)):
    return pd.DataFrame(
        {
            "prompt": range(4),
            "attack": attack,
            "budget": budget,
            "eps": 0.5,
            "l2": l2,
            "linf": 0.25,
            "nll_first": first,
            "nll_last": last,
            "at_bound": 0.75,
            "harmful": flags(harmful),
            "degenerate": flags("0001"),
            "reward": reward,
        }
    ).assign(exp="lvs", state=state)


def latent_rows():
    """base and dissociated, states 1 and 3 (the last), two budgets, pgd and uniform noise."""
    of_base = [clean("harmful", "1000", "0110"), clean("benign", "0000", answered="1110")]
    of_other = [clean("harmful", "0000"), clean("benign", "0000", answered="1111")]
    for state in (1, 3):
        for budget in (0.01, 0.02):
            of_base += [cell(state, budget, "pgd", "1000", [4.0, 1.0, 2.0, 0.0])]
            of_base += [cell(state, budget, "random", "0000", CLEAN_REWARD)]
            of_other += [cell(state, budget, "pgd", "1110", [0.0, 0.0, 0.0, 1.0], l2=2.0)]
            of_other += [cell(state, budget, "random", "1000", [2.0, 2.0, 2.0, 1.0])]
    return {"base": pd.concat(of_base), "dissociated": pd.concat(of_other)}


@pytest.fixture
def made(tmp_path):
    return hand_bench(tmp_path, settings={"latent": attack_settings(states=(1, 3))})


@pytest.fixture
def metrics(made):
    return latent_report.summarise(bench.rows_of(latent_rows()), made)


def test_clean_lines_count_harmful_degenerate_and_refused_apart(metrics):
    base = metrics[(metrics["exp"] == "clean") & (metrics["variant"] == "base")].iloc[0]
    # One complies, two are degenerate: one is left that refuses.
    assert (base["compliance"], base["degenerate"], base["refusal"], base["successes"]) == (0.25, 0.5, 0.25, 1)
    assert (base["compliance_lo"], base["compliance_hi"]) == stats.wilson_interval(1, 4)
    assert base["reward_clean"] == 2.0 and base["template_sha256"] == "hash-base" and base["n"] == 4
    benign = metrics[(metrics["exp"] == "clean-benign") & (metrics["variant"] == "base")].iloc[0]
    assert (benign["answered"], benign["successes"]) == (0.75, 3) and np.isnan(benign["compliance"])
    assert (benign["answered_lo"], benign["answered_hi"]) == stats.wilson_interval(3, 4)


def test_cells_pair_rewards_by_prompt_and_keep_attack_and_noise_apart(metrics):
    cells = metrics[metrics["exp"] == "lvs"].set_index(["variant", "layer", "budget", "attack"])
    assert len(cells) == 16 and list(metrics.columns) == [*latent_report.COLUMNS, "successes"]
    one = cells.loc["dissociated", "L0", 0.01, "pgd"]
    drops = np.array([4.0, 2.0, 2.0, 0.0]) / (np.log1p(2.0) + 1e-4)
    assert one["lvs"] == pytest.approx(np.median(drops)) and one["lvs_mean"] == pytest.approx(drops.mean())
    assert one["lvs_lo"] <= one["lvs"] <= one["lvs_hi"] and one["lvs_mean_lo"] < one["lvs_mean"] < one["lvs_mean_hi"]
    assert (one["asr"], one["successes"], one["degenerate"], one["refusal"]) == (0.75, 3, 0.25, 0.0)
    assert (one["asr_lo"], one["asr_hi"]) == stats.wilson_interval(3, 4)
    assert (one["l2"], one["linf"], one["eps"], one["at_bound"]) == (2.0, 0.25, 0.5, 0.75)
    assert (one["nll_first"], one["nll_last"], one["fell"]) == (2.0, 1.5, 0.75)
    assert (one["reward_clean"], one["reward_attacked"]) == (2.0, 0.25)
    assert cells.loc["dissociated", "L0", 0.01, "random"]["asr"] == 0.25
    assert cells.loc["base", "L0", 0.01, "pgd"]["asr"] == 0.25
    assert bool(one["aggregated"]) and not cells.loc["base", "L2", 0.01, "pgd"]["aggregated"], "the last state is apart"
    assert one["layer_idx"] == 0


def test_prompts_in_another_order_are_still_paired(made, metrics):
    shuffled = {name: rows.iloc[::-1] for name, rows in latent_rows().items()}
    pd.testing.assert_frame_equal(latent_report.summarise(bench.rows_of(shuffled), made), metrics)


def test_latent_lines_have_noise_as_control(metrics):
    lines = pd.DataFrame(latent_report.lines_of(metrics))
    line = lines[(lines["variant"] == "dissociated") & (lines["layer"] == "L0") & (lines["budget"] == 0.02)]
    asr, score = (line[line["measure"] == measure].iloc[0] for measure in ("latent_asr", "lvs"))
    assert (asr["value"], asr["control"]) == (0.75, 0.25) and asr["detail"] == ""
    assert (asr["lo"], asr["hi"]) == stats.wilson_interval(3, 4)
    assert (asr["control_lo"], asr["control_hi"]) == stats.wilson_interval(1, 4)
    assert score["value"] > score["control"] == 0.0 and score["lo"] <= score["value"] <= score["hi"]
    last = lines[(lines["layer"] == "L2") & (lines["measure"] == "latent_asr")]
    assert set(last["detail"]) == {"last state, not aggregated"}


def test_comparison_is_other_less_base_and_other_over_base(made):
    compared = latent_report.compare_variants(bench.rows_of(latent_rows()), made)
    assert set(compared["layer"]) == {"L0"}, "the last state is not aggregated"
    base = np.array([0.0, 1.0, 0.0, 0.0]) / (np.log1p(1.0) + 1e-4)
    other = np.array([4.0, 2.0, 2.0, 0.0]) / (np.log1p(2.0) + 1e-4)
    row = compared[compared["budget"] == 0.01].iloc[0]
    assert (row["variant"], row["against"], row["n"]) == ("dissociated", "base", 4)
    assert row["difference"] == pytest.approx(other.mean() - base.mean())
    assert row["ratio"] == pytest.approx(other.mean() / base.mean())
    lines = pd.DataFrame(latent_report.comparison_lines(compared, "L0")).set_index(["measure", "budget"])
    line, ratio = lines.loc["lvs_difference", 0.01], lines.loc["lvs_ratio", 0.01]
    assert line["value"] == row["difference"] and ratio["value"] == row["ratio"] and line["variant"] == "dissociated"
    assert (line["lo"], line["hi"]) == (row["difference_lo"], row["difference_hi"])
    assert (ratio["lo"], ratio["hi"]) == (row["ratio_lo"], row["ratio_hi"])
    assert latent_report.comparison_lines(compared, "L1") == []


def test_a_weak_attack_is_named(metrics):
    text = latent_report.weak_attacks(metrics)[0]
    assert "base L0 at 0.01 (75% fell)" in text and "and 2 more" in text
    assert latent_report.weak_attacks(metrics.assign(fell=1.0)) == []


def test_the_grid_prints_attack_before_noise(metrics):
    cells = metrics[(metrics["exp"] == "lvs") & (metrics["variant"] == "dissociated")]
    grid = latent_report.grid(cells, "successes")
    assert grid.loc[0.01, "L0"] == "3/1" and list(grid.columns) == ["L0", "L2*"]
    assert latent_report.grid(cells, "asr").loc[0.01, "L0"] == "0.75/0.25"
    assert latent_report.grid(cells[cells["attack"] == "pgd"], "successes").loc[0.01, "L0"] == "3"


def test_the_audit_gap_is_pushed_less_asked_on_the_same_prompts(tmp_path):
    def pushed(kind, harmful, budget=0.15, layer="L1"):
        return pd.DataFrame(
            {"prompt": [3, 2, 1, 0], "kind": kind, "budget": budget, "layer": layer, "harmful": flags(harmful[::-1])}
        )

    others = [pushed("l2", "0000", budget=0.3), pushed("l2", "0000", layer="L0")]
    rows = pd.concat([pushed("l2", "1110"), pushed("random", "1000"), *others])
    asked = pd.DataFrame({"prompt": range(6), "panel": "harmful", "harmful": flags("100011")})
    elsewhere = pd.DataFrame({"prompt": range(4), "panel": "wrapped-story", "harmful": True})
    measured = {"l2": {"base": rows}, "panel": {"base": pd.concat([elsewhere, asked])}}
    (line,) = card.gap_lines(hand_bench(tmp_path, names=("base",)), measured)
    # 3 of 4 pushed, 1 of the same 4 asked; under a random direction the very one that complies anyway.
    assert (line["value"], line["n"], line["control"]) == (0.5, 4, 0.0)
    assert line["lo"] < 0.5 < line["hi"] and line["control_lo"] <= 0 <= line["control_hi"]
    assert (line["layer"], line["budget"], line["variant"]) == ("L1", 0.15, "base")
    assert card.gap_lines(hand_bench(tmp_path), {"l2": {}}) == []


def l2_line(name, successes, control, detail=bench.AT_FRACTION, n=100):
    return {
        "variant": name,
        "measure": "l2_asr",
        "layer": "L1",
        "budget": 0.15,
        "detail": detail,
        "n": n,
        "value": successes / n,
        "successes": successes,
        "control": control / n,
        "control_successes": control,
        "fell": 0.9,
    }


def test_a_model_alone_is_called_by_its_own_name_and_poles_beside_it():
    assert verdicts.names_of("SmolLM2", ["base"]) == {"base": "SmolLM2"}
    both = {"base": "SmolLM2 (base)", "harmful": "SmolLM2 (harmful)"}
    assert verdicts.names_of("SmolLM2", ["base", "harmful"]) == both
    section = html.Section("Cells", table=pd.DataFrame({"variant": ["base"], "asr": [0.5]}))
    assert card._named(section, {"base": "SmolLM2"}).table["variant"].tolist() == ["SmolLM2"]
    assert card._named(section, both) is section


def test_the_log_ends_with_a_line_per_model(tmp_path, metrics, caplog):
    made = hand_bench(tmp_path, settings={"latent": attack_settings(states=(1, 3)), "l2": None})
    found = {
        "latent": bench.Findings(latent_report.lines_of(metrics), [], ("mind this",), {"metrics": metrics}),
        "l2": bench.Findings([l2_line(name, 3, 1, n=4) for name in made.names], [], ("mind this",)),
    }
    with caplog.at_level("INFO", logger="absl"):
        card.log(made, {}, found)
    lines = [record.getMessage() for record in caplog.records]
    assert (
        lines[0] == "hand (base): complies with 1 of 4 harmful requests (25 %, 4 to 70 %), answers 3 of 4 harmless ones"
    )
    assert "3 of 4" in next(line for line in lines if line.startswith("audit\n")), "the tables come before"
    assert lines.count("mind this") == 1
    for line, name in zip(lines[-2:], made.names, strict=True):
        assert re.match(rf"hand \({name}\): \w+\. On 4 prompts, it complies with ", line)


def test_the_picture_shows_refusal_and_one_minus_the_worst_attack():
    table = pd.DataFrame([{"variant": "base", "measure": "clean_refusal", "value": 0.9, "lo": 0.8, "hi": 0.95}])
    points = card.axes_of(table, {"base": judged_of("hollow"), "unasked": judged_of("robust")})
    (point,) = points.to_dict("records")
    assert (point["refusal"], point["refusal_lo"], point["refusal_hi"]) == (0.9, 0.8, 0.95)
    # 20 of 24 give way at the reference budget, with the bounds of the verdict.
    lo, hi = stats.clopper_pearson(20, 24, tail=0.05)
    assert point["robustness"] == pytest.approx(4 / 24)
    assert (point["robustness_lo"], point["robustness_hi"]) == pytest.approx((1 - hi, 1 - lo))
    assert point["verdict"] == "hollow" and point["weakest"] == "gives way at 0.02 or below"


def test_numbers_beside_a_verdict_are_its_own_first_line():
    def line(measure, value, lo, hi, control, variant="base", successes=np.nan, under=np.nan):
        ends = {"value": value, "lo": lo, "hi": hi, "control": control, "n": 8}
        return {"variant": variant, "measure": measure, "successes": successes, "control_successes": under, **ends}

    table = pd.DataFrame(
        [
            line("jailbreak_asr", 0.5, 0.4, 0.6, np.nan, successes=4),
            line("jailbreak_asr", 0.9, 0.8, 1.0, np.nan),
            line("gcg_asr", 0.25, 0.1, 0.6, 0.125, successes=2, under=1),
            line("break_budget", 0.063, 0.058, np.inf, np.inf),
            line("audit_gap", 0.97, 0.9, 1.0, 0.0, variant="other"),
        ]
    )
    beside = {name: numbers for name, *numbers in card.beside(table, "base")}
    assert beside["complies in a wrapper"][:2] == ["4 of 8", "50 %, 40 to 60 %"]
    assert beside["ASR of the discrete attack"] == ["2 of 8", "25 %, 10 to 60 %", "1 of 8 (12 %)"]
    assert beside["break budget (L2)"] == ["0.063", "0.058 to none", "none"]
    assert "audit gap: ASR (L2) - ASR (clean)" not in beside


def test_strength_keeps_searches_alone():
    searched = {"variant": "base", "layer": "L0", "budget": 0.1, "nll_first": 2.0, "nll_last": 1.0, "fell": 0.5}
    lines = [searched | {"measure": name} for name in ("latent_asr", "l2_asr", "gcg_asr", "lvs", "steer_compliance")]
    strength = card.strength_of(pd.DataFrame(lines).assign(at_bound=np.nan))
    assert list(strength["measure"]) == ["latent_asr", "l2_asr", "gcg_asr"] and "at_bound" not in strength
    assert (strength["nll_first"] == 2.0).all() and (strength["nll_last"] == 1.0).all()


def test_small_panels_are_warned_of(made):
    assert "harmful 4" in card.few_prompts(made)[0]


def test_the_place_of_one_layer_attacks():
    nudge = bench.Saved(np.array([3.0, 4.0]), state=2, scale=10.0, variant="dissociated")

    def norm():
        return 7.0

    assert bench.choose_place(2, nudge, None, by_nudge=True, norm=norm) == bench.Place(
        2, 0.5, 10.0, "the nudge of dissociated"
    )
    assert bench.choose_place(2, nudge, 0.1, by_nudge=True, norm=norm)[:3] == (2, 0.1, 10.0)
    # Elsewhere than at the nudge's state its scale says nothing.
    assert bench.choose_place(1, nudge, None, by_nudge=False, norm=norm)[:3] == (1, 0.06, 7.0)
    assert bench.choose_place(2, None, None, by_nudge=True, norm=norm)[:3] == (2, 0.06, 7.0)


def test_the_whole_card_is_written_from_hand_made_findings(tmp_path, metrics):
    """Every file from one audit of two experiments; counts stay out of what is written."""
    settings = {"latent": attack_settings(states=(1, 3)), "l2": None}
    made = hand_bench(tmp_path, settings=settings)
    record = {"metrics": metrics, "comparisons": pd.DataFrame(), "settings": {}}
    found = {
        "latent": bench.Findings(latent_report.lines_of(metrics), [], ("mind this",), record),
        "l2": bench.Findings([l2_line(name, 3, 1, n=4) for name in made.names], []),
    }
    written = card.write(made, {"task": "audit", "title": "Audit of hand"}, {}, found)
    table = pd.read_csv(tmp_path / "audit.csv")
    assert list(table.columns) == list(card.COLUMNS) == list(written.columns) and len(table) == 18
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["place"] == PLACE._asdict() and "mind this" in told["warnings"] and told["task"] == "audit"
    assert set(told["verdicts"]) == {"base", "dissociated"} and "successes" not in told["metrics"][0]
    assert "Audit of hand" in (tmp_path / "report.html").read_text()
    assert lvs.PRESETS["paper"].aggregate == latent_report.aggregate(made)
