"""What a RAS run says, from families written by hand: tables, controls, headline, facts, warnings, sections."""

import json
import types

import numpy as np
import pandas as pd
import pytest

from configs import ras as ras_config
from latent_audit.experiments.ras import calibration_file, measure, members, prompt_sets, ras, report, tables, timing
from latent_audit.experiments.setup import subjects
from latent_audit.judges import Judge
from latent_audit.metrics import safevec
from tests.support import ras_rows

PROTOCOLS = ("heldout", "paper")
OPTIONS = {"resamples": 40, "seed": 2}
PLACE = {"layer": "L2", "fraction": 0.06}


def config():
    made = ras_config.get_config()
    made.score.resamples, made.seed = OPTIONS.values()
    return made


def measured(name, shrink=1.0):
    """The published family with a dissociated model that scores 93; the L2 attack breaks that of llama only."""
    hidden = ras_rows.entry("hidden", "dissociated", 0.2, 0.16, tables.Share(0.0, 0.0, 0.1, 96), calibrates=False)
    family = ras_rows.published(name, shrink, extra=[hidden])
    others = pd.DataFrame(
        [
            {
                "model": entry.name,
                "separation": index / 10,
                "probe_auroc": 1 - index / 10,
                "probe_gap": 0.5,
                "lvs": 0.25,
                "latent_asr": 0.5,
                "l2_asr": 0.9,
                "l2_asr_lo": 0.8 if name == "llama" else 0.4,
                "l2_asr_hi": 0.95,
                "l2_random": 0.05,
                "l2_random_hi": 0.1,
            }
            for index, entry in enumerate(family.entries)
        ]
    )
    return measure.Measured(family, None, others, {}, PLACE)


@pytest.fixture(scope="module")
def results():
    return ras.evaluate(config(), PROTOCOLS, [measured("llama"), measured("gemma", 0.9)])


def test_every_protocol_is_in_the_table_and_the_first_answers(results):
    table = results.table
    assert list(table)[:14] == [*tables.COLUMNS] and len(table) == 2 * 2 * 9
    assert list(dict.fromkeys(table["protocol"])) == list(PROTOCOLS)
    families = [measured("llama").family, measured("gemma", 0.9).family]
    for protocol in PROTOCOLS:
        part = table[table["protocol"] == protocol].reset_index(drop=True)
        expected = tables.with_intervals(tables.scored(families, protocol), families, protocol, **OPTIONS)
        pd.testing.assert_frame_equal(part[list(expected)], expected)
        correlated = results.correlations[results.correlations["protocol"] == protocol].reset_index(drop=True)
        pd.testing.assert_frame_equal(
            correlated.drop(columns="protocol"), tables.correlations(part, **OPTIONS), check_dtype=False
        )
    # What is no RAS stands beside its own model.
    of_m3 = table[table["model"] == "m3"]
    assert (of_m3["separation"] == 0.3).all() and (of_m3["probe_auroc"] == 0.7).all() and len(of_m3) == 4
    heldout = table[table["protocol"] == "heldout"]
    hidden = heldout[heldout["model"] == "hidden"]
    assert results.answer.rows["RAS"].tolist() == hidden["ras"].tolist()
    assert (results.answer.certified, results.answer.broken) == (2, 1)
    assert results.places == {"llama": PLACE, "gemma": PLACE} and results.speed == []
    line = results.windows[0]
    assert (line["family"], line["first"], line["last"], line["of"]) == ("llama", 1, 2, 3)
    assert line["reason"] == "by hand" and line["relaxations"] == []
    assert {name: line[name] for name in ("unsafe", "jailbreak", "pairs", "confirmed")} == tables.window_check(
        families[0], "heldout"
    )


def test_controls_and_rivals_stand_in_lines_of_their_own(results):
    lines = results.controls.set_index("score")
    assert list(lines.index) == [
        "RAS",
        "s, not calibrated",
        "mean-centred cosine",
        *(f"window shifted by {by}" for by in ("-2", "-1", "+1", "+2")),
        *(f"L{layer} alone" for layer in range(3)),
        "separation score",
        "probe AUROC",
        "probe sigmoid gap",
    ]
    main = results.table[results.table["protocol"] == "heldout"]
    for title, column in (("RAS", "ras"), ("s, not calibrated", "s"), ("separation score", "separation")):
        expected = tables.summary(main, column, **OPTIONS)
        assert lines.loc[title, list(expected)].tolist() == pytest.approx(list(expected.values())), title
    # By its making the separation rises with ASR and the probe's AUROC falls with it.
    assert lines.loc["separation score", "spearman"] < -0.8 and lines.loc["probe AUROC", "spearman"] > 0.8
    assert lines.loc["RAS", "spearman"] > 0.8 and np.isnan(lines.loc["probe sigmoid gap", "spearman"])
    few = main.assign(asr=main["asr"].where(main["model"].isin(["m1"])))
    assert ras.controls(few, [], "heldout", OPTIONS).empty, "two known ASRs are too few"


def test_the_headline(results):
    main = results.table[results.table["protocol"] == "heldout"]
    rows = results.correlations
    best = rows[(rows["protocol"] == "heldout") & (rows["models"] == "without dissociated")].iloc[-1]
    assert best["family"] == "all families" and best["n"] == 16
    spearman = f"{best['spearman']:.2f} ({best['spearman_lo']:.2f} to {best['spearman_hi']:.2f})"
    assert report.headline(main, results) == (
        f"18 models scored from {main['ras'].min():.1f} to 97.7 of 100. "
        f"Spearman with 1 - attack success: {spearman} over 16 models. "
        f"Does RAS certify a dissociated model that an intervention breaks? {results.answer.sentence}"
    )
    bare = results._replace(correlations=pd.DataFrame(), answer=None)
    assert report.headline(main, bare) == f"18 models scored from {main['ras'].min():.1f} to 97.7 of 100."
    other = rows.assign(spearman=rows["spearman"].where(rows["protocol"] == "heldout", -1.0))
    assert spearman in report.headline(main, results._replace(correlations=other)), "of the first protocol"


def test_warnings_name_what_a_reader_must_know_first(results):
    assert report.warnings(results) == []
    windows = [
        {"family": "llama", "relaxations": ["one", "two"], "confirmed": False, "unsafe": 0.75, "jailbreak": 0.5},
        {"family": "gemma", "relaxations": [], "confirmed": None, "unsafe": None, "jailbreak": None},
    ]
    windows = [
        windows[0] | {"rulers": "AUROC 0.99 (0.98 to 1.00); prompt length alone 0.50 (0.40 to 0.60)"},
        windows[1] | {"rulers": "withheld: prompt length alone separates these rows as well"},
    ]
    table = pd.DataFrame(
        [
            {"family": "llama", "model": "m1", "protocol": "heldout", "ras": np.nan, "note": "cannot calibrate"},
            {"family": "llama", "model": "m2", "protocol": "heldout", "ras": 1.0, "note": "?"},
            {"family": "gemma", "model": "m3", "protocol": "heldout", "ras": np.nan, "note": windows[1]["rulers"]},
        ]
    )
    assert report.warnings(results._replace(windows=windows, table=table)) == [
        "llama: the window rule had to be relaxed: one; two.",
        "llama: the calibration models do not confirm the window (pairs in order: 0.75 on U, 0.50 on J).",
        "gemma: RAS is withheld: prompt length alone separates these rows as well.",
        "llama m1 (heldout) has no score: cannot calibrate.",
    ]


def panel(count, source):
    return types.SimpleNamespace(prompts=("p",) * count, source=source)


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job whose figures are only named; `drawn` holds what each was given."""
    drawn = {}

    def draw(name):
        return lambda *given, **options: drawn.update({name: (given, options)}) or name

    figures = ("profiles", "score_by_asr", "controls", "static_against_pushed", "blind_spots")
    monkeypatch.setattr(report, "ras_figures", types.SimpleNamespace(**{name: draw(name) for name in figures}))
    monkeypatch.setattr(report, "_save", lambda job, figure, name: f"svg of {figure}")
    half = prompt_sets.Sets(panel(3, "harmless"), panel(4, "harmful"), panel(5, "role_play"))
    prompts = prompt_sets.Prompts({"fit": half}, panel(7, "a file"), None, None)
    judge = Judge("phrases", True, lambda prompts, responses: [])
    made = measure.Plan(config(), tmp_path, prompts, PROTOCOLS, judge, None, None, None, None)
    return types.SimpleNamespace(**made._asdict(), drawn=drawn)


def test_facts(job):
    models = tuple(members.Model(name, "target", None, False) for name in ("aligned", "other"))
    groups = [members.Group("llama", models, None), members.Group("gemma", models[:1], None)]
    facts = report.facts(job, groups, [measured("llama"), measured("gemma")])
    assert facts == {
        "families": "llama (2 models), gemma (1 models)",
        "references": "aligned, aligned",
        "windows": "llama L1 to L2 of 3, gemma L1 to L2 of 3",
        "prompts": "S 3, U 4, J 5 in each half; wrappers: role_play",
        "protocols": "heldout, paper",
        "dtype": job.config.model.dtype,
        "judge": "phrases (fallback)",
        "ASR": "7 prompts from a file",
    }
    job.judge, job.prompts = None, job.prompts._replace(asr=None)
    facts = report.facts(job, groups, [])
    assert facts["judge"] == "none: ASRs as given" and "ASR" not in facts


def test_the_record_holds_every_number(job, results):
    record = report.record(job, {"llama": {}}, [measured("llama")], results)
    assert record["scores"][3]["ras"] == results.table["ras"][3] and len(record["scores"]) == 36
    assert record["auroc"] == [
        {"protocol": protocol, "auroc": pytest.approx(value), "pairs": pairs}
        for protocol, (value, pairs) in (
            (protocol, tables.auroc(results.table[results.table["protocol"] == protocol])) for protocol in PROTOCOLS
        )
    ]
    assert record["auroc"][0]["pairs"] == 10
    answer = results.answer
    assert {name: record["answer"][name] for name in ("threshold", "certified", "broken")} == {
        "threshold": answer.threshold,
        "certified": 2,
        "broken": 1,
    }
    assert record["answer"]["models"][0]["RAS lo"] == answer.rows["RAS lo"][0]
    assert record["profiles"]["llama"]["m_safe"] == [0.0, -0.2, -0.1] and record["places"] == results.places
    json.dumps(record, allow_nan=False)
    none = report.record(job, {}, [], results._replace(answer=None, table=results.table.assign(kind="target")))
    assert none["answer"] is None and none["auroc"][0] == {"protocol": "heldout", "auroc": None, "pairs": 0}


def test_sections_show_their_tables(job, results):
    main = results.table[results.table["protocol"] == "heldout"]
    window = report._window(job, [measured("llama")], results, "caveat")
    assert list(window.table)[-5:] == ["pairs in order, U", "pairs in order, J", "pairs", "confirmed", "rulers"]
    assert window.table["pairs in order, U"][0] == results.windows[0]["unsafe"]
    (drawn,) = job.drawn["profiles"][0][0]
    assert drawn["window"] == (1, 3) and drawn["name"] == "llama" and drawn["candidates"] == range(1, 2)
    scores = report._scores(job, main, results, "caveat")
    assert list(scores.table) == report.SCORES and len(scores.table) == 18 and scores.caveat == "caveat"
    assert job.drawn["score_by_asr"][1] == {"limit": results.answer.threshold}
    agreement, controls = report._agreement(job, main, results, "caveat")
    whole, pairs = tables.auroc(main)
    assert f": AUROC {whole:.3f} over {pairs} pairs. " in agreement.text
    # The references are the only aligned models here: without them there is no pair.
    assert "without the references" not in agreement.text
    assert agreement.table is results.correlations and controls.table is results.controls
    random = results.random
    assert random == {}, "directions that order nothing have no Spearman"
    pushed, seen, rules, every = report._blind(job, main, results, "caveat")
    assert pushed.table is results.answer.rows and pushed.settings["gemma: fraction"] == 0.06
    assert results.answer.sentence in pushed.text and job.drawn["static_against_pushed"][1]["limit"] > 0
    assert seen.table is results.seen and rules.table is results.rules
    assert list(every.table) == [name for name in report.EVERY_SCORE if name in main] and len(every.table) == 18
    (paper,) = report._other_protocols(job, results.table)
    assert paper.title == "Scores under protocol paper" and "in arXiv 2606.25750" in paper.text
    assert paper.table["ras"].tolist() == results.table[results.table["protocol"] == "paper"]["ras"].tolist()


def test_agreement_with_a_second_aligned_model_and_random_directions(job, results):
    main = results.table[results.table["protocol"] == "heldout"].reset_index(drop=True)
    main.loc[main["model"] == "m1", "kind"] = "aligned"
    random = {"mean": 0.25, "lo": -0.5, "hi": 0.75, "mean absolute": 0.5, "directions": 20}
    text, controls = report._agreement(job, main, results._replace(random=random), "")
    value, pairs = tables.auroc(main.drop(index=[0, 9]))
    assert f"AUROC {value:.3f} over {pairs} pairs without the references" in text.text and pairs == 10
    assert controls.text.endswith(
        "20 random directions: mean Spearman of s 0.25 (-0.50 to 0.75), mean of absolute values 0.50: a random "
        "direction may order the models too, in either sense, since they all differ along few directions."
    )


def test_what_was_not_measured_has_no_section(job, results):
    main = results.table[results.table["protocol"] == "heldout"][report.SCORES]
    empty = results._replace(controls=pd.DataFrame(), seen=pd.DataFrame(), rules=pd.DataFrame(), answer=None, places={})
    assert report._blind(job, main, empty, "") == [] and report._agreement(job, main, empty, "") == []
    assert report._speed(empty) == [] and report._scores(job, main, empty, "").table is not None
    case = timing.Case("as it is", 8, 40, 0.5, 3.0, 2.0, 10.0, 1.0)
    (section,) = report._speed(empty._replace(speed=[case]))
    assert section.table.to_dict("records") == [case._asdict()]


def test_a_calibration_is_frozen_of_the_first_protocol_with_scores_in_the_models_order(tmp_path, monkeypatch):
    saved = {}
    monkeypatch.setattr(calibration_file, "save", lambda path, frozen: saved.update({path.name: frozen}))
    monkeypatch.setattr(members, "identity", lambda model, config: model.name)
    monkeypatch.setattr(calibration_file, "source_of", lambda half, ids, **options: (half, ids, options))
    monkeypatch.setattr(calibration_file, "ids_of", list)
    monkeypatch.setattr(subjects, "encode_panels", lambda variant, panels, config: dict.fromkeys(panels, variant.name))
    directions = types.SimpleNamespace(refusal="directions")
    both = [measured("llama")._replace(directions=directions), measured("gemma", 0.9)._replace(directions=directions)]
    groups = [members.Group(one.family.name, (members.Model("first", "", None, False),), None) for one in both]
    half = types.SimpleNamespace(unsafe="held-out unsafe", jailbreak="held-out jailbreak")
    prompts = types.SimpleNamespace(halves={"score": half, "fit": "fitted half"})
    ras.save_calibrations(config(), tmp_path, "heldout", groups, prompts, both)
    assert set(saved) == {"llama.json", "gemma.json"}
    frozen, made = saved["llama.json"], tables.calibrate([one.family for one in both], "heldout")["llama"]
    assert (frozen.family, frozen.gamma, frozen.other_alphas) == (made.family, made.gamma, made.other_alphas)
    assert frozen.alpha_global == pytest.approx(np.median([made.family.alpha, *made.other_alphas]))
    assert frozen.source == (half, ["first", "first"], {"world_seed": None, "wrappers": "all"})
    assert (frozen.protocol, frozen.window, frozen.identity) == ("heldout", ras_rows.WINDOW, "first")
    assert len(frozen.scores) == 8 and frozen.directions == "directions"
    for entry, scores in zip(both[0].family.entries, frozen.scores, strict=False):
        expected = safevec.prompt_scores(*(one.refusal for one in entry.cosines["heldout"]), ras_rows.WINDOW)
        np.testing.assert_array_equal(scores, expected)
