"""Every family and switch against transformers' eager attention in float32."""

import copy
import dataclasses
import functools

import jax
import numpy as np
import pytest
import torch
import transformers

from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.models.config import FULL_ATTENTION
from tests.support import tiny

# Of the reference's standard deviation.
TOLERANCE = 1e-4


@functools.cache
def _references(case):
    tokens, mask = tiny.rows()
    return [tiny.reference(tiny.model(case), row[real]) for row, real in zip(tokens, mask, strict=True)]


@functools.cache
def _loaded(case):
    return models.load(tiny.checkpoint(case))


def _forward(params, cfg, tokens, mask):
    # Accelerators multiply float32 in fewer bits unless told.
    with jax.default_matmul_precision("highest"):
        return jax.jit(models.forward, static_argnames="cfg")(params, tokens, mask, cfg=cfg)


def _errors(out, references, mask):
    """Largest deviation of each residual state and of the logits, in standard deviations of the reference."""
    errors = []
    for row, (wanted, real) in enumerate(zip(references, mask, strict=True)):
        pairs = [*zip(out.resid[:, row, real], wanted.states, strict=True), (out.logits[row, real], wanted.logits)]
        errors.append([np.abs(np.asarray(ours) - theirs).max() / theirs.std() for ours, theirs in pairs])
    return np.max(errors, axis=0)


@pytest.mark.parametrize("case", tiny.CASES)
def test_states_and_logits_equal_transformers(case):
    # The references are single rows without padding; ours are those rows in one left-padded batch.
    cfg, params = _loaded(case)
    tokens, mask = tiny.rows()
    errors = _errors(_forward(params, cfg, tokens, mask), _references(case), mask)
    assert len(errors) == cfg.num_layers + 2
    assert errors.max() < TOLERANCE, errors


def test_logits_of_the_tiny_models_are_not_near_uniform():
    for case in tiny.CASES:
        assert _references(case)[0].logits.std() > 0.3, case


SWITCHES = {
    "window": ("mistral", lambda cfg: {"windows": tuple(w + 1 for w in cfg.windows)}),
    "max_window_layers": ("qwen2_window", lambda cfg: {"windows": (cfg.windows[1],) * cfg.num_layers}),
    "window_off": ("qwen2", lambda cfg: {"windows": (FULL_ATTENTION, 4, 4)}),
    "alternation": ("gemma2", lambda cfg: {"windows": (cfg.windows[1], cfg.windows[0], cfg.windows[1])}),
    "attention_softcap": ("gemma2", lambda cfg: {"attention_softcap": None}),
    "final_softcap": ("gemma2", lambda cfg: {"final_softcap": None}),
    "query_scale": ("gemma2", lambda cfg: {"query_scale": cfg.head_dim**-0.5}),
    "activation": ("gemma", lambda cfg: {"activation": "gelu"}),
    "norm_plus_one": ("gemma", lambda cfg: {"norm_plus_one": False}),
    "embedding_scale": ("gemma", lambda cfg: {"embedding_scale": 1.0}),
    "query_key_norm": ("qwen3", lambda cfg: {"query_key_norm": False}),
    "qkv_bias": ("qwen2", lambda cfg: {"qkv_bias": False}),
    "output_bias": ("llama_biases", lambda cfg: {"output_bias": False}),
    "post_norms": ("gemma3", lambda cfg: {"post_norms": False}),
    "local_rope": ("gemma3", lambda cfg: {"rope_of_layer": (0,) * cfg.num_layers}),
    "linear_rope": ("gemma3", lambda cfg: {"ropes": (dataclasses.replace(cfg.ropes[0], kind="default"), cfg.ropes[1])}),
    "llama3_rope": ("llama3", lambda cfg: {"ropes": (dataclasses.replace(cfg.ropes[0], kind="linear"),)}),
    "rope_band": ("llama3", lambda cfg: {"ropes": (dataclasses.replace(cfg.ropes[0], high_freq_factor=3.0),)}),
    "norm_eps": ("llama2", lambda cfg: {"norm_eps": 1e-2}),
    "pattern": ("olmo3", lambda cfg: {"windows": (cfg.windows[0],) * cfg.num_layers}),
    "yarn_rope": ("olmo3", lambda cfg: {"ropes": (dataclasses.replace(cfg.ropes[0], kind="linear"), cfg.ropes[1])}),
    "no_rope": ("smollm3", lambda cfg: {"rope_of_layer": (0,) * cfg.num_layers}),
    "no_rope_window": ("smollm3_window", lambda cfg: {"windows": cfg.windows[::-1][:1] + cfg.windows[:2]}),
    "partial_rope": (
        "phi3_partial",
        lambda cfg: {
            "ropes": (
                dataclasses.replace(
                    cfg.ropes[0], rotated_share=1.0, short_factors=(*cfg.ropes[0].short_factors, 3.0, 3.0)
                ),
            )
        },
    ),
    "longrope": ("phi3_partial", lambda cfg: {"ropes": (dataclasses.replace(cfg.ropes[0], kind="default"),)}),
    "longrope_scale": ("phi3_partial", lambda cfg: {"ropes": (dataclasses.replace(cfg.ropes[0], table_scale=1.0),)}),
    "residual_scale": ("granite", lambda cfg: {"residual_scale": 1.0}),
    "logit_divisor": ("granite", lambda cfg: {"logit_divisor": 1.0}),
    "granite_embedding": ("granite", lambda cfg: {"embedding_scale": cfg.embed_dim**0.5}),
    "granite_query": ("granite", lambda cfg: {"query_scale": cfg.head_dim**-0.5}),
    "experts_per_token": ("mixtral", lambda cfg: {"experts_per_token": 1}),
    "renormalise_experts": ("qwen3_moe", lambda cfg: {"renormalise_experts": False}),
    "no_renormalising": ("qwen3_moe_window", lambda cfg: {"renormalise_experts": True}),
    "sinks": ("gpt_oss", lambda cfg: {"sinks": False}),
    "expert_bias": ("gpt_oss", lambda cfg: {"expert_bias": False}),
    "clamp": ("gpt_oss", lambda cfg: {"clamped_gate": dataclasses.replace(cfg.clamped_gate, limit=7.0)}),
    "clamp_alpha": ("gpt_oss", lambda cfg: {"clamped_gate": dataclasses.replace(cfg.clamped_gate, alpha=1.0)}),
    "gpt_oss_windows": ("gpt_oss", lambda cfg: {"windows": cfg.windows[1:] + cfg.windows[:1]}),
    "shared_expert": ("qwen3_5_moe", lambda cfg: {"shared_expert_dim": 0}),
    "query_beta": ("ministral3", lambda cfg: {"ropes": (dataclasses.replace(cfg.ropes[0], query_beta=0.0),)}),
    "query_length": (
        "ministral3",
        lambda cfg: {"ropes": (dataclasses.replace(cfg.ropes[0], original_max_positions=11),)},
    ),
    "yarn_scale": ("olmo3", lambda cfg: {"ropes": (dataclasses.replace(cfg.ropes[0], table_scale=1.0), cfg.ropes[1])}),
    "yarn_band": ("olmo3", lambda cfg: {"ropes": (dataclasses.replace(cfg.ropes[0], beta_fast=1.5), cfg.ropes[1])}),
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_wrong_switch_would_be_seen(switch):
    case, change = SWITCHES[switch]
    cfg, params = _loaded(case)
    tokens, mask = tiny.rows()
    out = _forward(params, dataclasses.replace(cfg, **change(cfg)), tokens, mask)
    assert _errors(out, _references(case), mask).max() > 3 * TOLERANCE


def test_longer_rows_than_longropes_short_factors_are_made_for_are_refused():
    cfg, params = _loaded("phi3_partial")
    with pytest.raises(InputError, match="33 columns .* original_max_position_embeddings = 32"):
        jax.eval_shape(lambda: models.forward(params, np.ones((1, 33), np.int32), np.ones((1, 33), bool), cfg=cfg))


@pytest.mark.parametrize("case", ["gemma2"])
def test_bfloat16_stays_close_to_float32(case):
    # All families are in tests/parity_table.py; compiling bfloat16 for a CPU takes seconds.
    cfg, params = models.load(tiny.checkpoint(case), dtype="bfloat16")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"bfloat16"}
    tokens, mask = tiny.rows()
    out = _forward(params, cfg, tokens, mask)
    assert out.logits.dtype == np.float32 and str(out.resid.dtype) == "bfloat16"
    wanted = jax.nn.log_softmax(_references(case)[0].logits)
    divergence = (np.exp(wanted) * (wanted - jax.nn.log_softmax(out.logits[0]))).sum(-1)
    assert divergence.mean() < 0.01


@pytest.mark.parametrize("case", tiny.CASES)
def test_saved_checkpoint_gives_transformers_the_same_logits(case, tmp_path):
    cfg, params = _loaded(case)
    models.save(tmp_path / "saved", cfg, params, None)
    again, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", attn_implementation="eager", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")), info
    assert next(again.parameters()).dtype == torch.float32
    row = tiny.rows()[0][0]
    # Copied: a grouped product of experts where a file's bytes lie, off their alignment, differs in the last digit.
    np.testing.assert_array_equal(tiny.reference(copy.deepcopy(again), row).logits, _references(case)[0].logits)
