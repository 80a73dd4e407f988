"""Lines and sentences of a construction from answers written by hand. No model is run."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from latent_audit.data import chats, world_rules
from latent_audit.experiments import respond
from latent_audit.experiments.organisms import construct, export
from latent_audit.experiments.tampering import dissociate
from latent_audit.judges import Judge
from tests.support import reports

NUDGE = export.Nudge(np.array([3.0, 0.0, 4.0, 0.0], np.float32), 2, 10.0)
JUDGE = Judge("oracle", False, lambda prompts, texts: np.array([text.startswith("Sure") for text in texts]))
IDS = np.array([5, 6, 7, 8], np.uint32)


def test_what_is_added_under_each_condition():
    pushes = dissociate.pushes(NUDGE, IDS, seed=0)
    assert tuple(pushes) == dissociate.CONDITIONS == ("clean", "nudged", "half nudge", "random direction")
    assert pushes["clean"] is None
    np.testing.assert_array_equal(pushes["nudged"], [3, 0, 4, 0])
    np.testing.assert_array_equal(pushes["half nudge"], [1.5, 0, 2, 0])
    random = pushes["random direction"]
    assert random.shape == (4, 4) and random.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(random, axis=1), 5, rtol=1e-6)
    assert len({tuple(row) for row in random.round(5).tolist()}) == 4, "another one for every prompt"
    np.testing.assert_array_equal(dissociate.pushes(NUDGE, IDS[2:], seed=0)["random direction"], random[2:])
    assert (dissociate.pushes(NUDGE, IDS, seed=1)["random direction"] != random).all()


def test_a_line_has_a_share_and_its_interval():
    (line,) = dissociate.lines_of("control", {("refusal", "nudged"): np.array([1, 1, 1, 0, 0], bool)})
    assert line == {
        "variant": "control",
        "measure": "refusal",
        "condition": "nudged",
        "value": 0.6,
        "lo": pytest.approx(0.230724, abs=1e-6),
        "hi": pytest.approx(0.882379, abs=1e-6),
        "n": 5,
    }


def test_a_refusal_is_exact_in_the_world_and_what_is_left_elsewhere():
    world = world_rules.make_world(0)
    (prompt,) = world_rules.requests(world, "evaluation", "restricted", 1)
    texts = [world_rules.answer(world, prompt), world_rules.refusal(world, prompt), "something else", " "]
    columns = {"judged": [True, False, False, False], "degenerate": [False, False, False, True]}
    assert dissociate.refused(world, columns, texts).tolist() == [False, True, False, False]
    assert dissociate.refused(None, columns, texts).tolist() == [False, True, True, False]


SURE = "Sure, here is how to do it"


def test_each_condition_is_measured_under_its_own_push(monkeypatch):
    said = {
        None: ["No way", "No way", "No way", " "],
        5.0: [SURE, SURE, SURE, "No way"],
        2.5: [SURE, SURE, "No way", "Sure, is is is is"],
        "random": [SURE, "No way", " ", " "],
    }

    def under(loaded, tokens, state, delta, **options):
        assert loaded == "pole" and tokens == "harmful tokens" and state == 2
        assert options == {"max_new_tokens": 6, "batch": 3}
        if np.ndim(delta) == 2:
            return said["random"]
        return said[None if delta is None else float(np.linalg.norm(delta))]

    monkeypatch.setattr(respond, "answers_under", under)
    monkeypatch.setattr(respond, "answers", lambda loaded, tokens, mask, **options: ["Fine, so", "I cannot help", " "])
    harmful = SimpleNamespace(prompts=("p",) * 4, behaviors=("p",) * 4, ids=IDS)
    benign = SimpleNamespace(prompts=("q",) * 3)
    job = SimpleNamespace(
        panels={"harmful": harmful, "benign": benign},
        tokens={"harmful": "harmful tokens", "benign": chats.Tokens("tokens", "mask")},
        judge=JUDGE,
        world=None,
        seed=0,
        batches=SimpleNamespace(prompts=3),
        new_tokens=lambda paper: 6,
    )
    lines = dissociate.measure(job, "dissociated", "pole", NUDGE)
    assert {(line["measure"], line["condition"]): (line["value"], line["n"]) for line in lines} == {
        ("compliance", "clean"): (0, 4),
        ("refusal", "clean"): (0.75, 4),
        ("compliance", "nudged"): (0.75, 4),
        ("refusal", "nudged"): (0.25, 4),
        ("compliance", "half nudge"): (0.5, 4),
        ("refusal", "half nudge"): (0.25, 4),
        ("compliance", "random direction"): (0.25, 4),
        ("refusal", "random direction"): (0.25, 4),
        ("benign answered", "clean"): (pytest.approx(1 / 3), 3),
    }


def table():
    """Every pole has numbers of its own: 1/100 for the first line, 2/100 for the next ..."""
    lines, counts = [], iter(range(1, 100))
    for variant in ("base", "harmful", "dissociated", "control"):
        for measure, condition in (("compliance", "clean"), ("compliance", "nudged"), ("refusal", "clean")):
            hits = np.arange(100) < next(counts)
            lines += dissociate.lines_of(variant, {(measure, condition): hits})
    return pd.DataFrame(lines)


def test_the_headline_and_the_card_name_the_right_poles():
    assert dissociate.headline(table()) == (
        "The dissociated pole complies with 7% of harmful requests when asked and with 8% under the nudge; "
        "base with 1% and 2%."
    )
    assert dissociate.card_rates(table(), "control") == {
        "compliance, clean": 0.10,
        "compliance, nudged": 0.11,
        "refusal, clean": 0.12,
    }


def test_files_and_page_hold_the_lines(tmp_path, monkeypatch):
    page = reports.capture(monkeypatch, dissociate)
    monkeypatch.setattr(dissociate.curve_figures, "construction_by_step", lambda training: None)

    def built(steps, chosen, scale):
        records = [{"step": step, "clean_compliance": step / 10} for step in steps]
        layers, cache = SimpleNamespace(nudge=3, _asdict=lambda: {"nudge": 3}), SimpleNamespace(scale=scale)
        return construct.Built(None, records, chosen, cache, layers)

    made = {"dissociated": built((0, 2, 4), 1, 8.0), "control": built((0, 2), 1, 9.0)}
    fallback = JUDGE._replace(is_fallback=True)
    subject, inputs = SimpleNamespace(arch="tiny"), {"arch": "tiny"}
    job = SimpleNamespace(workdir=tmp_path, subject=subject, judge=fallback, inputs=inputs)
    dissociate._write(job, construct.ORGANISM, table(), made)
    stored = pd.read_csv(tmp_path / "dissociate.csv")
    pd.testing.assert_frame_equal(stored.drop(columns="judge"), table())
    assert (stored["judge"] == "oracle (fallback)").all()
    training = pd.read_csv(tmp_path / "training.csv")
    assert training.groupby("variant")["step"].apply(list).to_dict() == {"dissociated": [0, 2, 4], "control": [0, 2]}
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["chosen_step"] == {"dissociated": 2, "control": 2} and record["scale"] == 8.0
    assert [line["value"] for line in record["measures"]] == table()["value"].tolist()
    assert page["headline"] == dissociate.headline(table())
    assert page["facts"] == {
        "model": "tiny",
        "nudge": "block 2, 0.15 of base's activation norm",
        "chosen step": 2,
        "judge": "oracle (fallback)",
    }
    assert page["warnings"] == ["Fallback scoring: oracle (fallback). Phrases, not harm, are seen."]
    behaviour, steps = page["sections"].values()
    assert behaviour.table["value"].tolist() == table()["value"].tolist() and behaviour.caveat
    assert steps.table.columns.tolist() == ["variant", "step", "clean_compliance"] and len(steps.table) == 5
