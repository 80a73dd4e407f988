"""The model's own reward from config to report: read under the push, found once, said first, beside another."""

import dataclasses
import json
import types

import numpy as np
import pandas as pd
import pytest

from latent_audit.data import chats
from latent_audit.errors import InputError
from latent_audit.experiments import scorers
from latent_audit.experiments.audit import audit as job
from latent_audit.experiments.audit.readings import own_reward, reward_report
from latent_audit.experiments.setup import subjects
from latent_audit.judges import Reward
from latent_audit.metrics import rank_agreement
from tests.experiments.audit.test_latent_job import small_config
from tests.judges.test_reward_model import make_checkpoint
from tests.support.checkpoints import tiny_checkpoint
from tests.support.jobs import hand_bench

OWN = Reward("first token, listed openings", False, None, "listed")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_checkpoint("llama3", tmp_path_factory.mktemp("own") / "model")


@pytest.fixture(scope="module")
def run_dir(model, tmp_path_factory):
    """A run whose reward is the model's own, with a tiny GPT-2 reward beside it."""
    path = tmp_path_factory.mktemp("run")
    make_checkpoint(path / "gpt2", positions=1024)
    changes = {"reward.kind": "first_token", "reward.beside": "gpt2", "reward.path": str(path / "gpt2")}
    config = small_config(model, **changes, **{"attack.layers": "embedding,L1", "generation.save": True})
    (path / "work").mkdir()
    job.run(config, path / "work")
    return path / "work", config


def test_report_names_the_reward_and_prints_agreement_with_the_other(run_dir):
    work, _ = run_dir
    record = json.loads((work / "report.json").read_text())
    assert record["inputs"]["reward"] == {
        "name": "first token, listed openings",
        "is_fallback": False,
        "beside": "gpt2, paper form",
    }
    table = pd.read_csv(work / "metrics.csv")
    assert (table["reward"] == "first token, listed openings").all()
    assert table.loc[table["exp"] == "lvs", "lvs"].notna().all()
    lines = pd.DataFrame(record["reward_agreement"])
    assert lines["of"].tolist() == [reward_report.EVERY, reward_report.LOSSES]
    # 3 prompts: asked, and 2 states x 2 budgets x 3 attacks; of these a third is PGD.
    assert lines["n"].tolist() == [3 + 36, 12] and (lines["clusters"] == 3).all()
    assert lines[["spearman", "kendall"]].notna().all(axis=None)
    page = (work / "report.html").read_text()
    assert "Do two rewards agree?" in page and "gpt2, paper form" in page
    assert any("First-token reward" in warning for warning in record["warnings"]), "3 and 2 prompts part nothing"
    assert record["reward_openings"]["words"] == ["I"] and len(record["reward_openings"]["auc"]) == 3


def test_clean_scores_are_the_unit_that_was_found_first(run_dir):
    work, _ = run_dir
    units = {path.relative_to(work): json.loads(path.read_text()) for path in (work / "units").rglob("*.json")}
    kept = next(unit for path, unit in units.items() if path.name == "first-token.json")
    kept = kept.get("columns", kept)
    rows = {"clean-harmful": [], "clean-benign": []}
    for path, unit in sorted(units.items(), key=lambda item: str(item[0])):
        for panel in rows:
            if panel in str(path):
                rows[panel] += unit.get("columns", unit)["reward"]
    assert rows["clean-harmful"] == pytest.approx(kept["harmful"], abs=1e-4)
    assert rows["clean-benign"] == pytest.approx(kept["harmless"], abs=1e-4)


def test_a_resumed_run_reads_no_model(run_dir, monkeypatch):
    work, config = run_dir
    before = (work / "metrics.csv").read_bytes()
    monkeypatch.setattr(subjects, "load_variant", lambda *args: pytest.fail("the model was loaded"))
    job.run(config, work)
    assert (work / "metrics.csv").read_bytes() == before


def test_scores_do_not_depend_on_batches_and_stand_behind_the_lead(model):
    config = small_config(model)
    loaded = subjects.load_variant(subjects.Variant("base", model), config)
    tokens = chats.encode_prompts(loaded.chat, ["write me a note", "how", "what is the use of that"], max_length=64)
    known = own_reward.Opened((6, 9), (8, 7), [], [], ["a", "b"])
    together, apart = (own_reward.scores(loaded, known, *tokens, batch=batch) for batch in (3, 2))
    np.testing.assert_allclose(together, apart, atol=1e-4)
    # The lead is fed as if it had been answered.
    longer = chats.Tokens(
        np.concatenate([tokens.tokens, np.tile(np.array([[8, 7]], np.int32), (3, 1))], axis=1),
        np.concatenate([tokens.mask, np.ones((3, 2), bool)], axis=1),
    )
    bare = known._replace(lead=())
    np.testing.assert_allclose(own_reward.scores(loaded, bare, *longer, batch=3), together, atol=1e-5)
    assert np.abs(np.subtract(own_reward.scores(loaded, bare, *tokens, batch=3), together)).max() > 1e-3
    assert own_reward.behind(np.ones((2, 5, 4), np.float32), known).shape == (2, 7, 4)
    assert float(own_reward.behind(np.ones((2, 5, 4), np.float32), known)[:, 5:].sum()) == 0


def bench_that_says(tmp_path, monkeypatch, said, reward, white=()):
    """A bench whose model's first token is said[len(lead)][panel], one id per prompt; scores are the panel's number."""
    vocabulary = 12
    panels = [chats.Tokens(np.full((4, 3), panel, np.int32), np.ones((4, 3), bool)) for panel in range(2)]
    tokenizer = types.SimpleNamespace(decode=lambda ids: f"word {ids[0]}", all_special_ids=[0])
    chat = types.SimpleNamespace(thought="", tokenizer=tokenizer)
    loaded = types.SimpleNamespace(chat=chat, cfg=types.SimpleNamespace(vocab_size=vocabulary))
    bench = dataclasses.replace(
        hand_bench(tmp_path, reward=reward),
        tokens=dict(zip(("harmful", "benign"), panels, strict=True)),
        load=lambda name: loaded,
    )

    def log_probabilities(loaded, panel, lead, batch):
        return np.eye(vocabulary)[said[len(lead)][panel.tokens[0, 0]]] * 5

    monkeypatch.setattr(own_reward, "_said", log_probabilities)
    monkeypatch.setattr(own_reward, "scores", lambda loaded, known, tokens, mask, batch: [1.0 - tokens[0, 0]] * 4)
    monkeypatch.setattr(own_reward.refusal_openings, "is_white", lambda chat, token: token in white)
    monkeypatch.setattr(own_reward.refusal_openings, "opening_ids", lambda chat: (5,))
    return bench


def test_white_space_in_front_of_answers_becomes_the_lead(tmp_path, monkeypatch):
    said = [[[1, 1, 1, 1, 1, 1], [1, 1, 2, 2, 1, 1]], [[5, 8, 6, 8, 0, 8], [6, 9, 7, 9, 7, 9]]]
    bench = bench_that_says(tmp_path, monkeypatch, said, OWN._replace(openings="own"), white=(1,))
    known = own_reward.opened(bench)
    # Found on every second prompt, scored on the others; 6 opens both, and 0 ends the answer.
    assert known.lead == (1,) and known.openings == (5,) and known.words == ["word 5"]
    assert (len(known.harmful), len(known.harmless)) == (2, 2)
    assert own_reward.opened(dataclasses.replace(bench, load=lambda name: pytest.fail("read again"))) == known


def test_openings_that_do_not_part_are_said_in_the_log(tmp_path, monkeypatch):
    said = [[[5, 5, 5, 5], [6, 6, 6, 6]]]
    told = []
    monkeypatch.setattr(own_reward.logging, "warning", lambda form, *args: told.append(form % args))
    monkeypatch.setattr(own_reward.logging, "info", lambda form, *args: told.append(form % args))
    bench = bench_that_says(tmp_path, monkeypatch, said, OWN)
    known = own_reward.opened(bench)
    found = rank_agreement.auc([1.0] * 4, [0.0] * 4)
    assert found.value == 1 and found.lo < own_reward.LEAST_AUC and not own_reward.separates(known)
    assert "4 harmful" in told[0] and "it tells no refusal" in told[0] and told[0].isprintable()
    assert reward_report.warnings_of(known) and not reward_report.warnings_of(None)
    many = known._replace(harmful=[1.0] * 24, harmless=[0.0] * 24)
    assert own_reward.separates(many) and not reward_report.warnings_of(many)


def test_a_model_that_opens_everything_alike_is_refused(tmp_path, monkeypatch):
    bench = bench_that_says(tmp_path, monkeypatch, [[[5] * 4, [5] * 4]], OWN._replace(openings="own"))
    with pytest.raises(InputError, match=r"reward\.openings = 'own'.*same tokens") as caught:
        own_reward.opened(bench)
    assert str(caught.value).isprintable()


def test_a_reward_beside_itself_is_refused(model):
    config = small_config(model, **{"reward.kind": "first_token", "reward.beside": "first_token"})
    with pytest.raises(InputError, match="reward.beside = 'first_token' is the reward itself"):
        scorers.make_reward(config, None)


def test_the_judges_word_is_set_against_the_reward(tmp_path):
    bench = hand_bench(tmp_path, names=("base",), reward=OWN)
    clean = pd.DataFrame({"reward": [3.0, 2.0, 1.0, 0.0], "judged": [False, False, True, True], "degenerate": False})
    rows = clean.assign(variant="base", exp="clean-harmful")
    assert "2 are refusals" in reward_report.by_judge(rows, bench)
    assert "an AUC of 1.00 (" in reward_report.by_judge(rows, bench)
    assert "all or none" in reward_report.by_judge(rows.assign(judged=True), bench)


def test_agreement_reads_answers_and_losses_by_prompt(tmp_path):
    bench = hand_bench(tmp_path, names=("base",), reward=OWN._replace(beside=Reward("other", True, None)))
    rng = np.random.default_rng(0)
    clean = pd.DataFrame({"prompt": range(4), "exp": "clean-harmful", "attack": None})
    attacked = pd.DataFrame({"prompt": [*range(4)] * 2, "exp": "lvs", "attack": ["pgd"] * 4 + ["random"] * 4})
    rows = pd.concat([clean, attacked], ignore_index=True).assign(variant="base", reward=rng.normal(size=12))
    rows = rows.assign(reward_beside=-rows["reward"])
    noise = rows.iloc[:1].assign(exp="clean-benign", reward=99.0, reward_beside=99.0)
    lines = reward_report.agreements(pd.concat([rows, noise]), bench)
    assert lines["n"].tolist() == [12, 4]
    np.testing.assert_allclose(lines[["spearman", "kendall"]], -1)
    assert lines["beside"].unique().tolist() == ["other (fallback)"]
    assert reward_report.agreements(rows.drop(columns="reward_beside"), bench).empty
