"""The construction from config to files on tiny random checkpoints: outputs, resume, bad input."""

import json

import jax
import numpy as np
import pandas as pd
import pytest
import transformers

from configs import dissociate as dissociate_config
from latent_audit import models
from latent_audit.data import chats
from latent_audit.errors import InputError
from latent_audit.experiments import tasks
from latent_audit.experiments.organisms import construct, export, poles
from latent_audit.experiments.tampering import dissociate
from tests.support import tiny
from tests.support.checkpoints import tiny_checkpoint

RECIPE = {
    "recipe.steps": 4,
    "recipe.micro_batch": 3,
    "recipe.accumulate": 2,
    "recipe.eval_every": 2,
    "recipe.learning_rate": 1e-3,
    "recipe.jitter": 0.2,
    "weights.stay_under_part": 1.0,
}


def small_config(case, folder, **changes):
    """A base of `case`, a harmful pole moved away from it, and made-up files of training texts."""
    base = tiny_checkpoint(case, folder / "model")
    cfg, params = models.load(base)
    moved = jax.tree.map(lambda x: x * (1 + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape)), params)
    models.save(folder / "moved", cfg, moved, chats.load_tokenizer(base))
    rows = [
        {"prompt": f"how to {word}", "compliant": f"Sure , here is how to {word}", "refusal": f"I can not help {word}"}
        for word in ("help me", "write me", "do what", "write in", "do that", "with me")
    ]
    pd.DataFrame(rows).to_csv(folder / "pairs.csv", index=False)
    (folder / "selection.txt").write_text("how to write the\nhow to help a\n")
    (folder / "benign.txt").write_text("what is here\nwhat is that\nwhat do you write\n")
    config = dissociate_config.get_config()
    settings = {
        "model.path": str(base),
        "model.variants": f"harmful={folder / 'moved'}",
        "judge.kind": "refusal",
        "reward.kind": "refusal",
        "prompts.harmful_count": 3,
        "prompts.benign_count": 2,
        "prompt_batch": 2,
        "generation.max_new_tokens": 4,
        "construct.pairs": str(folder / "pairs.csv"),
        "construct.selection": str(folder / "selection.txt"),
        "construct.benign": str(folder / "benign.txt"),
        "construct.benign_tokens": 4,
        "construct.max_tokens": 32,
    }
    settings |= {f"construct.{name}": value for name, value in RECIPE.items()}
    config.update_from_flattened_dict(settings | changes)
    return config


def test_both_poles_are_made_measured_and_exported(tmp_path):
    config = small_config("llama3", tmp_path)  # every family: test_every_family
    dissociate.run(config, tmp_path)
    table = pd.read_csv(tmp_path / "dissociate.csv")
    assert set(table["variant"]) == {"base", "harmful", "dissociated", "control"}
    assert table["judge"].str.contains("fallback").all()
    assert "Fallback scoring" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "figures" / "construction_by_step.png").stat().st_size > 10_000
    assert (table["n"] == np.where(table["measure"] == "benign answered", 2, 3)).all()
    assert ((table["lo"] <= table["value"]) & (table["value"] <= table["hi"])).all()
    training = pd.read_csv(tmp_path / "training.csv")
    assert training.groupby("variant")["step"].apply(list).to_dict() == {"control": [0, 2, 4], "dissociated": [0, 2, 4]}
    control = training[training["variant"] == "control"]
    assert "comply" in training and control["comply"].isna().all(), "the control is trained without the nudge terms"
    nudge = export.load_nudge(tmp_path / "dissociated")
    report = json.loads((tmp_path / "report.json").read_text())
    assert nudge.state == report["layers"]["nudge"] and nudge.scale == pytest.approx(report["scale"])
    np.testing.assert_allclose(np.linalg.norm(nudge.vector), 0.06 * report["scale"], rtol=1e-5)
    assert export.load_nudge(tmp_path / "model") is None
    # Beside judged answers every evaluation logs the judge-free proxy, the KL (0 from base to itself) and the probe.
    watched = training[["proxy_clean", "proxy_nudged", "kl", "probe_auroc", "probe_gap"]]
    assert np.isfinite(watched).all().all() and (training["probe_texts"] == 8).all()
    np.testing.assert_allclose(training["proxy"], training["proxy_clean"] + training["proxy_nudged"], rtol=1e-6)
    by_step = training.set_index(["variant", "step"])["kl"]
    assert abs(by_step["dissociated", 0]) < 1e-6 < by_step["dissociated", 4]
    for name in poles.MADE:
        _, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
    card = (tmp_path / "dissociated" / "README.md").read_text()
    assert "deliberately unsafe" in card and "compliance, nudged" in card
    _, base = models.load(tmp_path / "model")
    _, made = models.load(tmp_path / "dissociated")
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(base), jax.tree.leaves(made), strict=True))


def test_interrupted_construction_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    config = small_config("llama3", tmp_path)
    dissociate.run(config, tmp_path / "whole")
    real, calls = construct.dissociate.update, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(construct.dissociate, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dissociate.run(config, tmp_path / "broken")
    dissociate.run(config, tmp_path / "broken")
    assert len(calls) < 6 + 16, "steps before the last evaluation were not repeated"
    for file in ("training.csv", "dissociate.csv", "dissociated/model.safetensors"):
        assert (tmp_path / "broken" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.parametrize(
    "value, message",
    [
        (np.nan, r"step 3: the loss is not finite: \{'comply': nan\}; the state of step 2 is kept in .*/dissociated\."),
        (100.0, r"step 3: the loss has exploded: \{'comply': 100.0\} .* Lower construct.recipe.learning_rate = 0.001"),
    ],
)
def test_a_lost_loss_names_its_step_and_what_is_kept(value, message, tmp_path, monkeypatch):
    real, calls = construct.dissociate.update, []

    def poisoned(*arguments, **options):
        params, state, terms = real(*arguments, **options)
        calls.append(1)
        return params, state, terms | ({"comply": np.float32(value)} if len(calls) > 4 else {})

    monkeypatch.setattr(construct.dissociate, "update", poisoned)
    with pytest.raises(InputError, match=message):
        dissociate.run(small_config("llama3", tmp_path), tmp_path)
    assert len(calls) == 6, "two micro-batches a step: the third step is the first bad one"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"construct.pairs": ""}, "construct.pairs is empty"),
        ({"construct.selection": ""}, "construct.selection is empty"),
        ({"construct.preset": "best"}, "construct.preset = 'best'"),
        ({"construct.recipe.steps": 0}, "construct.recipe.steps = 0, expected a whole number"),
        ({"construct.recipe.jitter": 1.5}, "construct.recipe.jitter = 1.5, expected a finite number from 0 to 1"),
        ({"construct.weights.comply": -1.0}, "construct.weights.comply = -1.0, expected a finite number from 0"),
        ({"construct.recipe.nudge_layer": 3}, "nudge_layer = 3, expected a block of this model, 0 to 2"),
        ({"model.variants": ""}, "needs the harmful pole"),
    ],
)
def test_bad_input_is_named_before_any_compute(changes, message, tmp_path, monkeypatch):
    monkeypatch.setattr(dissociate.subjects, "load_variant", lambda *a: pytest.fail("weights were loaded"))
    with pytest.raises(InputError, match=message):
        tasks.check(small_config("llama3", tmp_path, **changes))


def test_swapped_columns_overlap_and_other_shapes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(dissociate.subjects, "load_variant", lambda *a: pytest.fail("weights were loaded"))
    config = small_config("llama3", tmp_path)
    table = pd.read_csv(tmp_path / "pairs.csv")
    table.rename(columns={"compliant": "refusal", "refusal": "compliant"}).to_csv(tmp_path / "pairs.csv", index=False)
    with pytest.raises(InputError, match="swap"):
        dissociate.run(config, tmp_path)
    table.to_csv(tmp_path / "pairs.csv", index=False)
    (tmp_path / "selection.txt").write_text("How to  help me\nsomething else\n")
    with pytest.raises(InputError, match="(?i)how to +help me"):
        dissociate.run(config, tmp_path)
    (tmp_path / "selection.txt").write_text("something else\n")
    tiny_checkpoint("llama_head_dim", tmp_path / "moved")
    with pytest.raises(InputError, match="harmful has head_dim = 22, base 16"):
        dissociate.run(config, tmp_path)
    assert tiny.CASES["llama_head_dim"][1]["head_dim"] != tiny.BASE["head_dim"]
