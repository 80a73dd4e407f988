"""The whole audit from config to card on tiny random checkpoints with phrase scoring; survey, sweep, bad input."""

import json

import jax
import numpy as np
import pandas as pd
import pytest

from configs import audit as audit_config
from configs import survey as survey_config
from configs import sweep as sweep_config
from latent_audit import models
from latent_audit.data import chats
from latent_audit.errors import InputError
from latent_audit.experiments import respond, tasks
from latent_audit.experiments.audit import audit, bench
from latent_audit.experiments.audit.card import card
from latent_audit.experiments.organisms import export
from latent_audit.experiments.series import survey, sweep
from latent_audit.experiments.setup import subjects
from tests.models.test_every_family import FAMILIES
from tests.support import reports
from tests.support.checkpoints import tiny_checkpoint
from tests.support.jobs import SMALLEST_SUITE

MEASURES = {
    "clean_compliance",
    "clean_refusal",
    "clean_degenerate",
    "clean_incoherent",
    "benign_answer_rate",
    "jailbreak_asr",
    "facts_right",
    "lvs",
    "latent_asr",
    "break_radius",
    "suite_asr",
    "radius_ratio",
    "l2_asr",
    "break_budget",
    "steer_compliance",
    "cone_compliance",
    "patch_compliance",
    "patch_coherence",
    "interchange",
    "probe_auroc",
    "probe_gap",
    "separation",
    "projection",
    "ruler_auroc",
    "gcg_asr",
    "audit_gap",
    "lvs_difference",
    "lvs_ratio",
}
CONTRACT = "arch,variant,measure,layer,budget,value,lo,hi,n,control"


def moved(path, to, scale=0.1, nudge=None):
    """A copy of a checkpoint with other weights, saved as a pole is."""
    cfg, params = models.load(path)
    other = jax.tree.map(lambda x: x * (1 + scale * jax.random.normal(jax.random.key(x.size), x.shape)), params)
    export.export_pole(to, cfg, other, chats.load_tokenizer(path), kind="harmful", recipe={}, rates={}, nudge=nudge)
    return to


def small_config(case, folder, **changes):
    """Base, a dissociated variant that brings a nudge, and a harmful pole; the smallest panels that say anything."""
    path = tiny_checkpoint(case, folder / "model", ends_turns=True)
    cfg = models.check(path).cfg
    nudge = export.Nudge(np.random.default_rng(0).normal(size=cfg.embed_dim).astype(np.float32), 2, 10.0)
    poles = {
        "dissociated": moved(path, folder / "dissociated", 0.05, nudge),
        "harmful": moved(path, folder / "harmful"),
    }
    rows = [
        {"prompt": f"how to {word}", "compliant": f"Sure , here is how to {word}", "refusal": f"I can not help {word}"}
        for word in ("help me", "write me", "do what", "write in", "do that")
    ]
    pd.DataFrame(rows).to_csv(folder / "pairs.csv", index=False)
    config = audit_config.get_config()
    settings = {
        "model.path": str(path),
        "model.variants": ",".join(f"{name}={at}" for name, at in poles.items()),
        "judge.kind": "refusal",
        "reward.kind": "refusal",
        "prompts.harmful_count": 4,
        "prompts.benign_count": 4,
        "generation.max_new_tokens": 4,
        "prompt_batch": 2,
        "layer_batch": 2,
        "rows": 6,
        "attack.prompts": 2,
        "attack.layers": "L0,L1",
        "attack.budgets": (0.1,),
        "attack.steps": 2,
        "score.resamples": 20,
        "panel.wrappers": "role_play,fiction",
        "panel.wrapped_count": 2,
        "suite.prompts": 2,
        **SMALLEST_SUITE,
        "l2.prompts": 3,
        "l2.steps": 2,
        "l2.multiples": (0.5, 1.0),
        "l2.rounds": 1,
        "steer.layers": "nudge",
        "steer.fractions": (0.0, 0.5),
        "steer.prompts": 2,
        "patch.prompts": 3,
        "static.pairs": str(folder / "pairs.csv"),
        "gcg.prompts": 2,
        "gcg.batch": 2,
        "gcg.steps": 1,
        "gcg.candidates": 4,
        "gcg.length": 3,
    }
    config.update_from_flattened_dict(settings | changes)
    return config


def test_a_part_of_a_panel_is_not_filled_up_to_the_whole_panels_batch(tmp_path, monkeypatch):
    changes = {"experiments": "latent", "attack.prompts": 2, "prompt_batch": 4, "model.variants": ""}
    changes |= {"attack.layers": "L0"}
    asked, answers = [], respond.answers

    def counted(loaded, tokens, mask, **options):
        asked.append(len(mask))
        return answers(loaded, tokens, mask, **options)

    monkeypatch.setattr(respond, "answers", counted)
    audit.run(small_config("llama3", tmp_path, **changes), tmp_path)
    assert asked == [2, 6], "of a panel of four two prompts are asked, and answer under an attack and two controls"


def test_every_experiment_runs_and_a_second_start_computes_nothing(tmp_path, monkeypatch):
    config = small_config("llama3", tmp_path)
    audit.run(config, tmp_path)
    text = (tmp_path / "audit.csv").read_text()
    assert text.startswith(CONTRACT)
    table = pd.read_csv(tmp_path / "audit.csv")
    assert tuple(table.columns) == card.COLUMNS and set(table["measure"]) == MEASURES
    assert table["judge"].str.contains("fallback").all()
    shares = table[
        ~table["measure"].isin(
            ("lvs", "break_budget", "separation", "projection", "lvs_difference", "lvs_ratio", "audit_gap", "probe_gap")
            + ("break_radius", "radius_ratio")
        )
    ].dropna(subset=["value", "lo"])
    assert shares["value"].between(0, 1).all() and (shares["lo"] <= shares["value"] + 1e-9).all()
    assert (shares["value"] <= shares["hi"] + 1e-9).all() and (table["n"] > 0).mean() > 0.9
    attacked = table[table["measure"].isin(("l2_asr", "steer_compliance", "latent_asr", "gcg_asr", "audit_gap"))]
    assert attacked["control"].notna().all()
    # The nudge that a variant brings says where and how far.
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["place"]["state"] == 2 and report["place"]["source"] == "the nudge of dissociated"
    assert set(table[table["measure"] == "l2_asr"]["layer"]) == {"L1"} and set(report["verdicts"]) == {
        "base",
        "dissociated",
        "harmful",
    }
    # The first projections are what they must be: base at 0, the harmful pole at 1.
    placed = table[table["measure"] == "projection"].set_index(["variant", "layer"])["value"]
    assert np.allclose(placed["base"], 0, atol=1e-6) and np.allclose(placed["harmful"], 1, atol=1e-5)
    page, result = (tmp_path / "report.html").read_text(), reports.result(tmp_path / "report.html")
    for title in (
        "Two axes",
        "Behaviour when asked",
        "Adaptive L2 attack",
        "Steering",
        "Activation patching",
        "Static probe",
        "Discrete attack",
        "Were the attacks strong?",
        "Fallback scoring",
        "Few prompts",
    ):
        assert title in page, title
    monkeypatch.setattr(respond, "answers", lambda *a, **k: pytest.fail("something was generated again"))
    monkeypatch.setattr(respond, "responses", lambda *a, **k: pytest.fail("something was generated again"))
    audit.run(config, tmp_path)
    assert (tmp_path / "audit.csv").read_text() == text and reports.result(tmp_path / "report.html") == result


def test_one_checkpoint_alone_uses_its_own_direction_and_the_papers_place(tmp_path):
    config = small_config(
        "gemma2", tmp_path, **{"model.variants": "", "experiments": "l2,steer,static", "static.pairs": ""}
    )
    audit.run(config, tmp_path)
    table = pd.read_csv(tmp_path / "audit.csv")
    measures = {"l2_asr", "break_budget", "steer_compliance", "cone_compliance", "separation", "ruler_auroc"}
    assert set(table["measure"]) == measures
    steered = table[table["measure"] == "steer_compliance"]
    assert (steered["detail"] == "own direction").all() and 0.06 in set(steered["budget"])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["place"]["state"] == min(round(0.5 * 3), 2) + 1 and report["verdicts"] == {}
    assert "No verdict: it needs the latent attack" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"experiments": "l3"}, "experiments = 'l3', expected some of all, panel, latent, suite, l2"),
        ({"experiments": ""}, "experiments = ''"),
        ({"rows": 0}, "rows = 0"),
        ({"place.layer": 3}, "nudge_layer = 3, expected a block of this model"),
        ({"place.fraction": -1.0}, "place.fraction = -1.0"),
        ({"l2.multiples": (0.5, 2.0)}, "l2.multiples = .* 1.0 among them"),
        ({"l2.steps": 0}, "l2.steps = 0"),
        ({"l2.layers": "L9"}, "l2.layers names 'L9'; this model has embedding and L0 to L"),
        ({"steer.direction": "best"}, "steer.direction = 'best'"),
        ({"steer.direction": "twin", "model.variants": ""}, "needs a variant named harmful"),
        ({"steer.layers": "embedding", "steer.direction": "own"}, "steer.layers names 'embedding'"),
        ({"patch.prompts": 0}, "patch.prompts = 0"),
        ({"gcg.candidates": 0}, "gcg.candidates = 0"),
        ({"panel.wrappers": "poem"}, "panel.wrappers = 'poem', expected some of role_play"),
        ({"panel.over_refusal": "none.csv"}, "none.csv"),
        ({"prompts.benign": "EMPTY"}, "EMPTY|no prompts"),
        ({"prompts.benign": "builtin:harmful"}, "occur in the harmless prompts"),
        ({"static.pairs": "ONE_KIND"}, "needs both kinds of text"),
    ],
)
def test_bad_input_is_named_before_any_compute(changes, message, tmp_path, monkeypatch):
    config = small_config("llama3", tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    pd.DataFrame([{"prompt": "how to do", "compliant": "Sure"}] * 3).to_csv(tmp_path / "one.csv", index=False)
    files = {"EMPTY": str(tmp_path / "empty.txt"), "ONE_KIND": str(tmp_path / "one.csv")}
    config.update_from_flattened_dict(
        {key: files.get(value, value) if isinstance(value, str) else value for key, value in changes.items()}
    )
    monkeypatch.setattr(subjects, "load_variant", lambda *a: pytest.fail("weights were loaded"))
    with pytest.raises(InputError, match=message):
        tasks.check(config)


def test_variants_of_another_model_are_refused(tmp_path):
    config = small_config("llama3", tmp_path)
    other = tiny_checkpoint("llama_head_dim", tmp_path / "other", ends_turns=True)
    config.model.variants = f"twin={other}"
    with pytest.raises(InputError, match="twin has head_dim = 22, base 16"):
        audit.run(config, tmp_path)
    same = tiny_checkpoint("llama3", tmp_path / "same", ends_turns=True)
    tokenizer = chats.load_tokenizer(same)
    tokenizer.add_tokens(["something"])
    tokenizer.save_pretrained(same)
    config.model.variants = f"twin={same}"
    with pytest.raises(InputError, match="twin has another tokenizer than base"):
        audit.run(config, tmp_path)


def test_the_activation_norm_and_the_place():
    states = np.zeros((2, 3, 4), np.float32)
    states[0, 1], states[1, 1] = 1.0, 2.0
    np.testing.assert_allclose(bench.activation_norm(states), [0, 3, 0])
    assert bench.share([True, False])["value"] == 0.5 and np.isnan(bench.share([])["value"])


def test_a_survey_puts_models_of_different_shapes_into_one_table(tmp_path):
    config = survey_config.get_config()
    paths = [tiny_checkpoint(case, tmp_path / case, ends_turns=True) for case in ("llama3", "gemma2")]
    config.models = ",".join(map(str, paths))
    one = small_config("llama3", tmp_path / "unused")
    config.base.update_from_flattened_dict(
        {
            key: value
            for key, value in runlog_flat(one).items()
            if key.split(".")[0] in ("judge", "reward", "rows", "l2", "panel", "generation", "prompt_batch", "prompts")
            or key == "steer.prompts"
        }
    )
    survey.run(config, tmp_path)
    table = pd.read_csv(tmp_path / "survey.csv")
    assert list(dict.fromkeys(table["arch"])) == ["llama3", "gemma2"]
    assert set(table["measure"]) >= {"clean_compliance", "l2_asr", "steer_compliance", "audit_gap"}
    assert (tmp_path / "models" / "gemma2" / "report.html").exists()
    record = json.loads((tmp_path / "report.json").read_text())
    assert "control" in record["models"][0]["under the L2 attack"]
    with pytest.raises(InputError, match="models is empty"):
        survey.name_models(" , ")
    assert survey.name_models("a/x,b/x") == {"x": "a/x", "x-2": "b/x"}


def runlog_flat(config):
    flat = {}

    def walk(prefix, node):
        for key, value in node.items():
            if hasattr(value, "items"):
                walk(f"{prefix}{key}.", value)
            else:
                flat[prefix + key] = value

    walk("", config)
    return flat


def test_a_sweep_combines_its_points_and_goes_on(tmp_path, monkeypatch):
    path = tiny_checkpoint("llama3", tmp_path / "model", ends_turns=True)
    config = sweep_config.get_config("lvs")
    config.base.update_from_flattened_dict(
        {
            "model.path": str(path),
            "judge.kind": "refusal",
            "reward.kind": "refusal",
            "attack.budgets": (0.1,),
            "attack.layers": "L0",
            "prompts.harmful_count": 2,
            "prompts.benign_count": 2,
            "generation.max_new_tokens": 3,
            "prompt_batch": 2,
            "score.resamples": 20,
        }
    )
    config.fields = "{'attack.steps': [1, 2]}"
    sweep.run(config, tmp_path)
    table = pd.read_csv(tmp_path / "sweep.csv")
    assert set(table["attack.steps"]) == {1, 2} and {"variant", "asr"} <= set(table.columns)
    assert (tmp_path / "points" / "steps=2" / "report.html").exists() and (tmp_path / "figures" / "sweep.png").exists()
    text = (tmp_path / "sweep.csv").read_text()
    monkeypatch.setattr(respond, "responses", lambda *a, **k: pytest.fail("a point was computed again"))
    sweep.run(config, tmp_path)
    assert (tmp_path / "sweep.csv").read_text() == text


@pytest.mark.parametrize(
    "fields, mode, message",
    [
        ("{'attack.stepz': [1]}", "grid", "attack.stepz.*did you mean 'attack.steps'"),
        ("{}", "grid", "expected field -> list"),
        ("attack.steps=3", "grid", "is no Python dict"),
        ("{'attack.steps': 3}", "grid", "attack.steps = 3, expected a list"),
        ("{'attack.steps': [1, 2], 'seed': [0]}", "list", "as many values of every field, got attack.steps 2, seed 1"),
        ("{'attack.steps': [1]}", "all", "mode = 'all'"),
        ("{'attack.steps': ['many']}", "grid", "attack.steps = 'many'"),
    ],
)
def test_a_sweep_field_that_is_wrong_is_named_first(fields, mode, message, tmp_path):
    config = sweep_config.get_config("lvs")
    config.fields, config.mode = fields, mode
    with pytest.raises(InputError, match=message):
        tasks.check(config)


def test_points_of_a_grid_and_of_a_list():
    fields = {"a": [1, 2], "b": [3, 4]}
    assert len(sweep.make_points(fields, "grid")) == 4
    assert sweep.make_points(fields, "list") == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    with pytest.raises(InputError, match="task = 'x'"):
        tasks.check({"task": "x"})


def test_prompts_beyond_a_longropes_short_factors_are_refused_before_weights_are_read(tmp_path):
    with pytest.raises(InputError, match="base: .* beyond original_max_position_embeddings = 32"):
        audit.check(small_config("phi3_partial", tmp_path))


@pytest.mark.slow
# The tiny Phi-4-mini ends at 32 columns, where the prompts here do not; its layers are those of phi3.
@pytest.mark.parametrize("case", [case for case in FAMILIES if case != "phi3_partial"])
def test_every_family_gets_a_card(case, tmp_path):
    audit.run(small_config(case, tmp_path), tmp_path)
    assert set(pd.read_csv(tmp_path / "audit.csv")["measure"]) == MEASURES
