"""config.json fields: every default, spelling and refusal against the installed transformers; real sizes."""

import copy
import dataclasses
import importlib
import math

import jax
import numpy as np
import pytest
import torch
import transformers

from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.models import ops
from latent_audit.models.config import FULL_ATTENTION
from latent_audit.models.families import FAMILIES, config_from_hf, hf_from_config
from tests.support import tiny

# Model types whose module in transformers has another name.
PACKAGES = {"gemma3_text": "gemma3", "qwen3_5_text": "qwen3_5", "gemma4_text": "gemma4"}
PACKAGES |= {"qwen3_5_moe_text": "qwen3_5_moe"}
WIDTHS = {"granitemoehybrid": "shared_", "qwen3_moe": "moe_", "qwen3_5_moe_text": "moe_"}
SMALL = {key: value for key, value in tiny.BASE.items() if key != "head_dim"}


def _reference_text(hf):
    """(transformers' configuration of a config.json's text decoder, whether its head is tied)."""
    config = transformers.AutoConfig.for_model(**copy.deepcopy(hf))
    return config.get_text_config(), config.tie_word_embeddings


def _assert_same_as_transformers(hf):
    cfg = config_from_hf(hf)
    theirs, tied = _reference_text(hf)
    of_layer = theirs.per_layer_config["sliding_attention"] if theirs.model_type == "gemma4_text" else theirs
    assert (cfg.vocab_size, cfg.num_layers, cfg.embed_dim, cfg.num_heads, cfg.num_kv_heads, cfg.mlp_dim) == (
        theirs.vocab_size,
        theirs.num_hidden_layers,
        theirs.hidden_size,
        theirs.num_attention_heads,
        of_layer.num_key_value_heads,
        getattr(theirs, f"{WIDTHS.get(theirs.model_type, '')}intermediate_size"),
    )
    experts = getattr(theirs, "num_local_experts", None) or getattr(theirs, "num_experts", None)
    if hasattr(theirs, "num_experts_per_tok") and experts:
        assert (cfg.num_experts, cfg.experts_per_token) == (experts, theirs.num_experts_per_tok)
        assert cfg.renormalise_experts == getattr(theirs, "norm_topk_prob", True)
        assert cfg.shared_expert_dim == getattr(theirs, "shared_expert_intermediate_size", 0)
        if theirs.model_type == "gpt_oss":
            assert dataclasses.astuple(cfg.clamped_gate) == (theirs.swiglu_alpha, theirs.swiglu_limit)
            assert cfg.sinks and cfg.expert_bias and cfg.qkv_bias == cfg.output_bias == theirs.attention_bias
    head_dim = getattr(of_layer, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    assert cfg.head_dim == head_dim
    scale = getattr(theirs, "attention_multiplier", getattr(theirs, "query_pre_attn_scalar", head_dim) ** -0.5)
    # Gemma 4's attention is unscaled, and its configuration has no word for it.
    assert cfg.query_scale == (1.0 if theirs.model_type == "gemma4_text" else scale)
    if cfg.global_heads is not None:
        of_full = theirs.per_layer_config["full_attention"]
        heads = (of_full.head_dim, of_full.num_key_value_heads, theirs.attention_k_eq_v)
        assert dataclasses.astuple(cfg.global_heads) == heads
        named = {"sliding_attention": "sliding", "full_attention": "global"}
        assert cfg.kinds == tuple(
            f"shared_{named[kind]}" if mode == "reuse" else named[kind]
            for kind, mode in zip(theirs.layer_types, theirs.kv_sharing_modes, strict=True)
        )
        if theirs.enable_moe_block:
            sizes = (theirs.num_experts, theirs.top_k_experts, theirs.moe_intermediate_size)
            assert (cfg.num_experts, cfg.experts_per_token, cfg.expert_dim) == sizes and cfg.renormalise_experts
        wide = theirs.use_double_wide_mlp and theirs.num_kv_shared_layers
        assert cfg.shared_mlp_dim == (2 * theirs.intermediate_size if wide else None)
        width, rows = theirs.hidden_size_per_layer_input, theirs.vocab_size_per_layer_input
        assert (cfg.layer_inputs and dataclasses.astuple(cfg.layer_inputs)) == ((width, rows) if width else None)
    sqrt_width = theirs.hidden_size**0.5 if theirs.model_type.startswith("gemma") else 1.0
    assert cfg.embedding_scale == getattr(theirs, "embedding_multiplier", sqrt_width)
    assert cfg.residual_scale == getattr(theirs, "residual_multiplier", 1.0)
    assert cfg.logit_divisor == getattr(theirs, "logits_scaling", 1.0)
    assert (cfg.norm_eps, cfg.max_positions) == (theirs.rms_norm_eps, theirs.max_position_embeddings)
    activation = getattr(theirs, "hidden_activation", None) or theirs.hidden_act
    assert cfg.activation == {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}[activation]
    assert cfg.tied_head == tied
    types = getattr(theirs, "layer_types", None) or ["sliding_attention"] * cfg.num_layers
    window = getattr(theirs, "sliding_window", None) or FULL_ATTENTION
    assert cfg.windows == tuple(window if kind == "sliding_attention" else FULL_ATTENTION for kind in types)
    for layer, kind in enumerate(types):
        rope = cfg.ropes[cfg.rope_of_layer[layer]]
        if not getattr(theirs, "no_rope_layers", [1] * cfg.num_layers)[layer]:
            assert not ops.inverse_frequencies(rope, cfg.head_dim).any()
            continue
        frequencies, scale = _their_frequencies(theirs, kind)
        assert rope.query_beta == (theirs.rope_parameters.get("llama_4_scaling_beta") or 0.0)
        np.testing.assert_allclose(ops.inverse_frequencies(rope, cfg.head_dim), frequencies, rtol=1e-6)
        assert rope.table_scale == pytest.approx(scale, rel=1e-12)
    if cfg.delta_rule is not None:
        assert dataclasses.astuple(cfg.delta_rule) == (
            theirs.linear_num_key_heads,
            theirs.linear_num_value_heads,
            theirs.linear_key_head_dim,
            theirs.linear_value_head_dim,
            theirs.linear_conv_kernel_dim,
        )
        assert cfg.kinds == tuple({"linear_attention": "delta", "full_attention": "softmax"}[kind] for kind in types)
    if "text_config" not in hf:
        eos = theirs.eos_token_id
        assert cfg.eos_ids == (() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,))
        assert cfg.bos_id == theirs.bos_token_id
    return cfg


def _their_frequencies(config, layer_type):
    """transformers' own rotary frequencies of a layer type and the factor of its tables."""
    package = importlib.import_module(f"transformers.models.{PACKAGES.get(config.model_type, config.model_type)}")
    modeling = getattr(package, f"modeling_{package.__name__.split('.')[-1]}")
    (kind,) = {name for name in vars(modeling) if name.endswith("RotaryEmbedding") and "Vision" not in name}
    rotary = getattr(modeling, kind)(config)
    prefix = f"{layer_type}_" if hasattr(rotary, f"{layer_type}_inv_freq") else ""
    return getattr(rotary, f"{prefix}inv_freq").numpy(), getattr(rotary, f"{prefix}attention_scaling")


# A hybrid that says nothing has state-space layers and experts; its dense form is what is read.
DENSE_HYBRID = {"layer_types": ["attention"] * 32, "num_local_experts": 0, "position_embedding_type": "rope"}


@pytest.mark.parametrize("name", FAMILIES)
def test_class_defaults_are_those_of_transformers(name):
    # A config.json that says nothing but its type.
    least = DENSE_HYBRID if name == "granitemoehybrid" else {}
    _assert_same_as_transformers({"model_type": name, "architectures": [FAMILIES[name].architecture]} | least)
    _assert_same_as_transformers({"model_type": name} | least)


def test_sparse_multimodal_file_as_google_ships_it():
    hf = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "eos_token_id": [1, 106],
        "text_config": {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "model_type": "gemma3_text",
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
        "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
    }
    cfg = _assert_same_as_transformers(hf)
    assert cfg.family == "gemma3_text" and cfg.tied_head and cfg.eos_ids == (1, 106)
    assert [cfg.ropes[cfg.rope_of_layer[i]].theta for i in (0, 5)] == [1e4, 1e6]
    assert (cfg.ropes[0].kind, cfg.ropes[0].factor) == ("linear", 8.0)


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
YARN = {key: value for key, value in tiny.YARN.items() if key != "rope_theta"}
NO_INPUTS = {"hidden_size_per_layer_input": 0}
QWEN3_5_ROPE = {
    "mrope_interleaved": True,
    "mrope_section": [11, 11, 10],
    "partial_rotary_factor": 0.25,
    "rope_theta": 10000000,
    "rope_type": "default",
}
GPT_OSS_ROPE = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
GPT_OSS_ROPE |= {"original_max_position_embeddings": 32}
SPELLINGS = {
    "old": ("llama", {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}}),
    "old_type": ("llama", {"rope_theta": 5e3, "rope_scaling": {"type": "linear", "factor": 2.0}}),
    "new": ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}}),
    "new_theta_outside": ("llama", {"rope_theta": 5e5, "rope_parameters": {"rope_type": "linear", "factor": 3.0}}),
    "both_old_wins": (
        "llama",
        {
            "rope_theta": 7e3,
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
            "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3},
        },
    ),
    "both_without_old_theta": (
        "llama",
        {
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
        },
    ),
    "both_old_empty": (
        "llama",
        {"rope_theta": 7e3, "rope_scaling": None, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    ),
    "no_original_length": (
        "llama",
        {
            "rope_theta": 1e4,
            "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        },
    ),
    "original_length_outside": (
        "llama",
        {"original_max_position_embeddings": 16, "rope_theta": 1e4, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
    ),
    "gemma3_old": (
        "gemma3_text",
        {
            "rope_theta": 5e5,
            "rope_local_base_freq": 7e3,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "sliding_window_pattern": 2,
        },
    ),
    "gemma3_new": (
        "gemma3_text",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 7e3},
            }
        },
    ),
    "gemma3_new_local_scaled": (
        "gemma3_text",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 5e5},
                "sliding_attention": {"rope_type": "linear", "factor": 3.0, "rope_theta": 7e3},
            }
        },
    ),
    "gemma3_both": (
        "gemma3_text",
        {
            "rope_theta": 9e5,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 5e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 7e3},
            },
        },
    ),
    "gemma3_half": (
        "gemma3_text",
        {"rope_theta": 9e5, "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 7e3}}},
    ),
    "gemma4_published": (
        "gemma4_text",
        NO_INPUTS
        | {"sliding_window": 8, "sliding_window_pattern": 6, "global_head_dim": 24, "head_dim": 16}
        | {"num_global_key_value_heads": 1, "attention_k_eq_v": True, "num_hidden_layers": 7},
    ),
    "gemma4_heads_of_their_own_unused": (
        "gemma4_text",
        NO_INPUTS | {"num_global_key_value_heads": 1, "attention_k_eq_v": False, "global_head_dim": 24, "head_dim": 16},
    ),
    "gemma4_saved_by_transformers": (
        "gemma4_text",
        NO_INPUTS
        | {"attention_k_eq_v": True, "layer_types": ["full_attention", "sliding_attention", "full_attention"]}
        | {"per_layer_config": {layer: {"head_dim": 24, "num_key_value_heads": 1} for layer in ("0", "2")}}
        | {"head_dim": 16},
    ),
    "gemma4_last_layer_is_full": (
        "gemma4_text",
        NO_INPUTS | {"head_dim": 16, "layer_types": ["sliding_attention"] * 3},
    ),
    "gemma4_e2b": (
        "gemma4_text",
        {"num_hidden_layers": 15, "num_kv_shared_layers": 9, "use_double_wide_mlp": True, "head_dim": 16}
        | {"layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 3, "hidden_size_per_layer_input": 8}
        | {"vocab_size_per_layer_input": 128},
    ),
    "gemma4_e4b": (
        "gemma4_text",
        {"num_hidden_layers": 12, "num_kv_shared_layers": 3, "head_dim": 16, "use_bidirectional_attention": None},
    ),
    "gemma4_moe": (
        "gemma4_text",
        NO_INPUTS
        | {"enable_moe_block": True, "num_experts": 6, "top_k_experts": 2, "moe_intermediate_size": 24, "head_dim": 16},
    ),
    "gemma4_wide_without_shared_layers": ("gemma4_text", NO_INPUTS | {"head_dim": 16, "use_double_wide_mlp": True}),
    # Images alone are seen both ways.
    "gemma4_vision": ("gemma4_text", NO_INPUTS | {"head_dim": 16, "use_bidirectional_attention": "vision"}),
    "qwen3_5_interval": ("qwen3_5_text", {"full_attention_interval": 2, "rope_parameters": QWEN3_5_ROPE}),
    "qwen3_5_share_outside": (
        "qwen3_5_text",
        {"partial_rotary_factor": 0.5, "rope_theta": 1e7, "layer_types": ["full_attention"] * 2 + ["linear_attention"]},
    ),
    "qwen3_5_moe_as_published": (
        "qwen3_5_moe_text",
        {"full_attention_interval": 2, "rope_parameters": QWEN3_5_ROPE, "num_experts": 8, "num_experts_per_tok": 3}
        | {"moe_intermediate_size": 24, "shared_expert_intermediate_size": 20, "mlp_only_layers": []}
        | {"attn_output_gate": True, "mamba_ssm_dtype": "float32", "mtp_num_hidden_layers": 1},
    ),
    "gpt_oss_as_published": (
        "gpt_oss",
        {"rope_scaling": GPT_OSS_ROPE, "rope_theta": 150000, "initial_context_length": 4096, "experts_per_token": 2}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "num_experts_per_tok": 2}
        | {"num_local_experts": 6, "attention_bias": True, "sliding_window": 16, "swiglu_limit": 5.0},
    ),
    "gpt_oss_new": ("gpt_oss", {"rope_parameters": GPT_OSS_ROPE | {"rope_theta": 1e4}, "swiglu_alpha": 1.5}),
    "gemma3_layer_types": ("gemma3_text", {"layer_types": ["full_attention"] + ["sliding_attention"] * 2}),
    "gemma2_layer_types": ("gemma2", {"layer_types": ["full_attention"] + ["sliding_attention"] * 2}),
    "gemma_legacy_gelu": ("gemma", {"hidden_act": "gelu", "hidden_activation": None}),
    "gemma2_erf_gelu": ("gemma2", {"hidden_activation": "gelu", "hidden_act": "gelu_pytorch_tanh"}),
    "qwen2_window_named_but_off": ("qwen2", {"sliding_window": 16, "use_sliding_window": False}),
    "qwen2_window": ("qwen2", {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 2}),
    "qwen2_window_all": ("qwen2", {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 0}),
    "qwen3_null_window": ("qwen3", {"sliding_window": None, "use_sliding_window": True, "max_window_layers": 1}),
    "qwen3_layer_types": (
        "qwen3",
        {
            "sliding_window": 16,
            "use_sliding_window": True,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "qwen3_yarn": (
        "qwen3",
        {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
    ),
    "llama_yarn_mscale": (
        "llama",
        {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False, "beta_slow": None}},
    ),
    "llama_yarn_factor": ("llama", {"rope_parameters": YARN | {"attention_factor": 1.5}}),
    "olmo3_flat": ("olmo3", {"rope_theta": 5e5, "rope_scaling": YARN, "num_hidden_layers": 9}),
    "olmo3_null": ("olmo3", {"rope_theta": 5e5, "rope_scaling": None}),
    "olmo3_layer_types": ("olmo3", {"layer_types": ["full_attention"] * 2 + ["sliding_attention"]}),
    "smollm3_as_published": (
        "smollm3",
        {
            "rope_theta": 5e6,
            "rope_scaling": None,
            "no_rope_layers": [1, 1, 0],
            "no_rope_layer_interval": 4,
            "layer_types": ["full_attention"] * 3,
            "use_sliding_window": False,
            "sliding_window": None,
        },
    ),
    "qwen3_moe_as_published": (
        "qwen3_moe",
        {
            "decoder_sparse_step": 1,
            "max_window_layers": 2,
            "mlp_only_layers": [],
            "moe_intermediate_size": 24,
            "norm_topk_prob": True,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "rope_theta": 1e6,
            "sliding_window": None,
            "use_sliding_window": False,
        },
    ),
    "ministral3_plain_rope": ("ministral3", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    "qwen3_moe_window": ("qwen3_moe", {"num_local_experts": 16, "use_sliding_window": True, "sliding_window": 16}),
    "mixtral_as_published": ("mixtral", {"rope_theta": 1e6, "sliding_window": None, "num_local_experts": 4}),
    "smollm3_interval": ("smollm3", {"no_rope_layer_interval": 2}),
    "smollm3_window": ("smollm3", {"no_rope_layers": [0, 1, 0], "use_sliding_window": True, "sliding_window": 16}),
    "phi3_as_published": (
        "phi3",
        {"sliding_window": 2047, "rope_theta": 1e4, "rope_scaling": None, "original_max_position_embeddings": 64},
    ),
    "phi3_partial": ("phi3", {"hidden_size": 64, "partial_rotary_factor": 0.75, "rope_theta": 1e4}),
    **{
        f"phi3_{kind}": (
            "phi3",
            {
                "original_max_position_embeddings": 32,
                "rope_theta": 1e4,
                "rope_scaling": {"type": kind, "short_factor": [1.0, 1.1, 1.5, 2], "long_factor": [1.0, 2.0, 4, 8]}
                | own,
            },
        )
        # transformers moves the length itself, but not for the oldest name.
        for kind, own in (("longrope", {}), ("yarn", {}), ("su", {"original_max_position_embeddings": 32}))
    },
    "phi3_partial_new": (
        "phi3",
        {
            "hidden_size": 64,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        },
    ),
    "granite_as_published": (
        "granite",
        {
            "embedding_multiplier": 12.0,
            "attention_multiplier": 0.015625,
            "residual_multiplier": 0.22,
            "logits_scaling": 8.0,
            "rope_theta": 5e6,
            "rope_scaling": None,
        },
    ),
    "granite4_as_published": (
        "granitemoehybrid",
        {
            "embedding_multiplier": 12,
            "attention_multiplier": 0.015625,
            "residual_multiplier": 0.22,
            "logits_scaling": 10,
            "layer_types": ["attention"] * 3,
            "num_local_experts": 0,
            "position_embedding_type": "rope",
            "shared_intermediate_size": 40,
            "mamba_n_heads": 1,
            "rope_theta": 1e7,
        },
    ),
    "ministral3_as_published": (
        "ministral3",
        {
            "rope_parameters": {
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "factor": 16.0,
                "llama_4_scaling_beta": 0.1,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "original_max_position_embeddings": 32,
                "rope_theta": 1e6,
                "rope_type": "yarn",
                "type": "yarn",
            },
            "sliding_window": None,
        },
    ),
    "mistral_null_window": ("mistral", {"sliding_window": None}),
    "null_kv_heads_and_head_dim": ("llama", {"num_key_value_heads": None, "head_dim": None}),
    "eos_list_no_bos": ("llama", {"eos_token_id": [1, 5], "bos_token_id": None}),
    "no_eos": ("llama", {"eos_token_id": None}),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_reads_as_transformers_reads_it(spelling):
    name, fields = SPELLINGS[spelling]
    cfg = _assert_same_as_transformers({"model_type": name, **SMALL, **fields})
    # What we write reads back the same, here and there.
    written = hf_from_config(cfg)
    assert config_from_hf(written) == cfg
    assert _assert_same_as_transformers(written) == cfg


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"model_type": "mamba2"}, ["mamba2", "LlamaForCausalLM", "Gemma3ForConditionalGeneration"]),
        ({"architectures": ["LlamaForSequenceClassification"]}, ["LlamaForSequenceClassification", "LlamaForCausalLM"]),
        ({"architectures": ["MistralForCausalLM"]}, ["MistralForCausalLM", "llama"]),
        ({"model_type": None, "architectures": None}, ["model_type"]),
        ({"rope_scaling": {"rope_type": "yarn", "factor": None}}, ["factor", "None"]),
        *(
            ({"model_type": "phi3", "rope_scaling": {"type": kind, "factor": 4.0}}, words)
            for kind, words in (
                ("linear", ["rope_type", "linear", "longrope"]),
                ("longrope", ["short_factor", "None"]),
                ("su", ["short_factor", "None"]),
                ("yarn", ["short_factor", "None"]),
            )
        ),
        (
            {"model_type": "phi3", "rope_scaling": {"type": "su", "short_factor": [1.0] * 4, "long_factor": [1.0] * 3}},
            ["short_factor", "4 and 3", "expected 4"],
        ),
        (
            {"model_type": "phi3", "rope_scaling": {"type": "su", "short_factor": [1, "2"], "long_factor": [1.0] * 4}},
            ["short_factor", "'2'"],
        ),
        ({"model_type": "phi3", "partial_rotary_factor": 0.9}, ["partial_rotary_factor", "0.9", "even"]),
        ({"model_type": "phi3", "partial_rotary_factor": 1.5}, ["partial_rotary_factor", "1.5"]),
        ({"model_type": "smollm3", "no_rope_layers": [1, 0]}, ["no_rope_layers", "[1, 0]"]),
        ({"model_type": "smollm3", "no_rope_layers": [1, 2, 0]}, ["no_rope_layers", "2"]),
        ({"model_type": "smollm3", "no_rope_layer_interval": 0}, ["no_rope_layer_interval", "0"]),
        ({"model_type": "granite", "residual_multiplier": None}, ["residual_multiplier", "None"]),
        ({"model_type": "granitemoehybrid"}, ["num_local_experts", "8", "expected 0"]),
        (
            {"model_type": "granitemoehybrid", "num_local_experts": 0, "position_embedding_type": "rope"},
            ["layer_types", "linear_attention"],
        ),
        (
            DENSE_HYBRID | {"model_type": "granitemoehybrid", "layer_types": ["mamba", "attention", "mamba"]},
            ["layer_types", "mamba"],
        ),
        (DENSE_HYBRID | {"model_type": "granitemoehybrid", "position_embedding_type": None}, ["position_embedding"]),
        ({"model_type": "ministral3", "rope_parameters": {"rope_type": "yarn"}}, ["factor", "None"]),
        ({"model_type": "mistral3"}, ["text_config", "mistral or ministral3"]),
        ({"model_type": "mistral3", "text_config": {"model_type": "llama"}}, ["text_config", "mistral or ministral3"]),
        ({"model_type": "olmo3", "layer_types": ["linear_attention"] * 3}, ["layer_types", "linear_attention"]),
        ({"layer_types": ["sliding_attention"] * 3}, ["layer_types", "sliding_attention", "full_attention"]),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, ["rope_type", "dynamic"]),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, ["rope_type", "longrope"]),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, ["factor", "None"]),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, ["rope_parameters"]),
        ({"rope_scaling": "linear"}, ["rope_scaling", "linear"]),
        ({"rope_theta": -1.0}, ["rope_theta", "-1"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor", "0.5"]),
        ({"quantization_config": {"quant_method": "gptq"}}, ["quantization_config", "gptq"]),
        ({"num_local_experts": 8}, ["num_local_experts", "8"]),
        ({"model_type": "mixtral", "num_experts_per_tok": 9}, ["num_experts_per_tok", "9", "8"]),
        ({"model_type": "mixtral", "num_local_experts": 0}, ["num_local_experts", "0"]),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [0]}, ["mlp_only_layers", "[0]"]),
        ({"model_type": "qwen3_moe", "decoder_sparse_step": 2}, ["decoder_sparse_step", "2"]),
        ({"model_type": "qwen3_moe", "norm_topk_prob": None}, ["norm_topk_prob", "None"]),
        ({"hidden_act": "relu"}, ["hidden_act", "relu", "silu"]),
        ({"hidden_size": "wide"}, ["hidden_size", "wide"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers", "0"]),
        ({"num_hidden_layers": True}, ["num_hidden_layers", "True"]),
        ({"rms_norm_eps": float("nan")}, ["rms_norm_eps", "nan"]),
        ({"num_key_value_heads": 3}, ["num_key_value_heads", "3"]),
        ({"head_dim": 15}, ["head_dim", "15"]),
        ({"tie_word_embeddings": "yes"}, ["tie_word_embeddings", "yes"]),
        ({"eos_token_id": "</s>"}, ["eos_token_id", "</s>"]),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, ["use_bidirectional_attention", "True"]),
        ({"model_type": "gemma3_text", "layer_types": ["full_attention"]}, ["layer_types"]),
        ({"model_type": "gemma3_text", "layer_types": ["chunked_attention"] * 3}, ["layer_types", "chunked_attention"]),
        ({"model_type": "gemma3_text", "rope_parameters": {"rope_theta": 1e4}}, ["rope_parameters"]),
        ({"model_type": "gemma3_text", "rope_scaling": {"type": "linear", "factor": 8.0}}, ["rope_scaling", "type"]),
        ({"model_type": "gemma3"}, ["text_config"]),
        ({"model_type": "gemma2", "sliding_window": None}, ["sliding_window", "None"]),
        *(
            ({"model_type": "gemma4_text", name: value}, [name, repr(value)])
            for name, value in (
                ("hidden_size_per_layer_input", -1),
                ("hidden_size_per_layer_input", "256"),
                ("hidden_size_per_layer_input", False),
                ("vocab_size_per_layer_input", 95),
                ("vocab_size_per_layer_input", None),
                ("num_kv_shared_layers", -1),
                ("num_kv_shared_layers", True),
                ("num_kv_shared_layers", 1.0),
                # The sliding layer that is left makes no keys for the full one; then none is left, and more than all.
                ("num_kv_shared_layers", 2),
                ("num_kv_shared_layers", 3),
                ("num_kv_shared_layers", 4),
                ("use_double_wide_mlp", None),
                ("use_bidirectional_attention", "all"),
                ("laurel_rank", 64),
                ("altup_num_inputs", 4),
                ("activation_sparsity_pattern", [0.95, 0.0, 0.0]),
            )
        ),
        ({"model_type": "gemma3n_text"}, ["gemma3n_text", "not supported", "Gemma4ForCausalLM"]),
        ({"model_type": "gemma4_assistant"}, ["gemma4_assistant", "not supported"]),
        *(
            ({"model_type": "gemma4_text", **NO_INPUTS, "enable_moe_block": True} | fields, words)
            for fields, words in (
                ({}, ["num_experts", "None"]),
                ({"num_experts": 4}, ["top_k_experts", "None"]),
                ({"num_experts": 4, "top_k_experts": 2}, ["moe_intermediate_size", "None"]),
                ({"num_experts": 4, "top_k_experts": 5}, ["top_k_experts", "5", "4"]),
                ({"enable_moe_block": 1}, ["enable_moe_block", "1"]),
            )
        ),
        (
            {"model_type": "gemma4_text", **NO_INPUTS, "layer_types": ["chunked_attention"] * 3},
            ["layer_types", "chunked_attention", "sliding_attention or full_attention"],
        ),
        ({"model_type": "gemma4_text", **NO_INPUTS, "global_head_dim": 15}, ["global_head_dim", "15"]),
        (
            {"model_type": "gemma4_text", **NO_INPUTS, "num_global_key_value_heads": 3, "attention_k_eq_v": True},
            ["num_global_key_value_heads", "3"],
        ),
        ({"model_type": "gemma4_text", **NO_INPUTS, "per_layer_config": [1]}, ["per_layer_config", "[1]"]),
        (
            {"model_type": "gemma4_text", **NO_INPUTS, "per_layer_config": {"2": {"intermediate_size": 8}}},
            ["per_layer_config", "intermediate_size"],
        ),
        (
            {"model_type": "gemma4_text", **NO_INPUTS, "per_layer_config": {"0": {"head_dim": 8}}},
            ["per_layer_config", "full layer"],
        ),
        ({"model_type": "qwen3_5_text", "layer_types": ["full_attention"]}, ["layer_types", "3 layers"]),
        (
            {"model_type": "qwen3_5_text", "layer_types": ["sliding_attention"] * 3},
            ["layer_types", "sliding_attention", "linear_attention or full_attention"],
        ),
        ({"model_type": "qwen3_5_text", "layer_types": "linear_attention"}, ["layer_types", "linear_attention"]),
        ({"model_type": "qwen3_5_text", "linear_num_value_heads": 24}, ["linear_num_value_heads", "24", "16"]),
        ({"model_type": "qwen3_5_text", "linear_conv_kernel_dim": 1}, ["linear_conv_kernel_dim", "1"]),
        (
            {"model_type": "qwen3_5_text", "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e7, "factor": 4.0}},
            ["rope_type", "yarn", "default"],
        ),
        ({"model_type": "qwen3_5_moe_text", "num_experts_per_tok": 300}, ["num_experts_per_tok", "300", "256"]),
        ({"model_type": "qwen3_5_moe_text", "shared_expert_intermediate_size": 0}, ["shared_expert_intermediate_size"]),
        ({"model_type": "qwen3_5_moe_text", "mlp_only_layers": [1]}, ["mlp_only_layers", "[1]"]),
        ({"model_type": "gpt_oss", "swiglu_limit": None}, ["swiglu_limit", "None"]),
        ({"model_type": "gpt_oss", "layer_types": ["linear_attention"] * 3}, ["layer_types", "linear_attention"]),
        (
            {"model_type": "qwen2", "use_sliding_window": False, "layer_types": ["sliding_attention"] * 3},
            ["layer_types", "use_sliding_window"],
        ),
        ({"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": -1}, ["max_window_layers", "-1"]),
    ],
)
def test_what_is_not_supported_is_refused_by_name(fields, words):
    with pytest.raises(InputError) as caught:
        config_from_hf({"model_type": "llama", **SMALL, **fields})
    assert all(word in str(caught.value) for word in words), caught.value


def test_config_that_is_no_object_is_refused():
    with pytest.raises(InputError, match="list"):
        config_from_hf([])


def test_config_that_its_family_cannot_express_is_not_written():
    cfg = config_from_hf({"model_type": "llama", **SMALL})
    for change in ({"windows": (4, 4, 4)}, {"query_key_norm": True}, {"final_softcap": 30.0}, {"query_scale": 1.0}):
        with pytest.raises(InputError, match=next(iter(change))):
            hf_from_config(dataclasses.replace(cfg, **change))


# Published sizes, as their config.json files say, and their parameter counts.
REAL = {
    "Llama-3.1-8B": (
        8_030_261_248,
        {
            "model_type": "llama",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
            "rope_theta": 500000.0,
        },
    ),
    "Llama-3.2-3B": (
        3_212_749_824,
        {
            "model_type": "llama",
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_attention_heads": 24,
            "num_hidden_layers": 28,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 128256,
            "tie_word_embeddings": True,
            "rope_theta": 500000.0,
        },
    ),
    "Mistral-7B-v0.1": (7_241_732_096, {"model_type": "mistral"}),
    "Qwen2.5-7B": (
        7_615_616_512,
        {
            "model_type": "qwen2",
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_attention_heads": 28,
            "num_hidden_layers": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "rope_theta": 1e6,
        },
    ),
    "Qwen3-8B": (
        8_190_735_360,
        {
            "model_type": "qwen3",
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_attention_heads": 32,
            "num_hidden_layers": 36,
            "num_key_value_heads": 8,
            "vocab_size": 151936,
            "rope_theta": 1e6,
        },
    ),
    # Of which 60 are the blocks' scales, which transformers keeps as buffers.
    "Gemma-4-31B text": (
        30_697_345_340,
        {
            "model_type": "gemma4_text",
            "hidden_size": 5376,
            "intermediate_size": 21504,
            "num_attention_heads": 32,
            "num_hidden_layers": 60,
            "num_key_value_heads": 16,
            "num_global_key_value_heads": 4,
            "attention_k_eq_v": True,
            "sliding_window": 1024,
            **NO_INPUTS,
        },
    ),
    # Of which 35 and 42 are the blocks' scales. Keys that layers with shared ones may carry in a file are not counted.
    "Gemma-4-E2B text": (
        4_628_569_379,
        {
            "model_type": "gemma4_text",
            "hidden_size": 1536,
            "intermediate_size": 6144,
            "num_hidden_layers": 35,
            "num_key_value_heads": 1,
            "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 7,
            "num_kv_shared_layers": 20,
            "use_double_wide_mlp": True,
        },
    ),
    # Of which 30 are the blocks' scales.
    "Gemma-4-26B-A4B text": (
        25_233_141_790,
        {
            "model_type": "gemma4_text",
            "hidden_size": 2816,
            "intermediate_size": 2112,
            "num_attention_heads": 16,
            "num_hidden_layers": 30,
            "num_key_value_heads": 8,
            "num_global_key_value_heads": 2,
            "attention_k_eq_v": True,
            "enable_moe_block": True,
            "num_experts": 128,
            "top_k_experts": 8,
            "moe_intermediate_size": 704,
            "sliding_window": 1024,
            **NO_INPUTS,
        },
    ),
    "Gemma-4-E4B text": (
        7_463_013_418,
        {
            "model_type": "gemma4_text",
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 42,
            "num_key_value_heads": 2,
            "num_kv_shared_layers": 18,
        },
    ),
    "Qwen3.5-0.8B text": (
        752_393_024,
        {
            "model_type": "qwen3_5_text",
            "hidden_size": 1024,
            "intermediate_size": 3584,
            "num_attention_heads": 8,
            "num_hidden_layers": 24,
            "num_key_value_heads": 2,
            "linear_num_value_heads": 16,
            "tie_word_embeddings": True,
            "rope_parameters": QWEN3_5_ROPE,
        },
    ),
    "Qwen3.5-9B text": (8_953_803_264, {"model_type": "qwen3_5_text", "rope_parameters": QWEN3_5_ROPE}),
    "Qwen3.5-27B text": (
        26_895_998_464,
        {
            "model_type": "qwen3_5_text",
            "hidden_size": 5120,
            "intermediate_size": 17408,
            "num_attention_heads": 24,
            "num_hidden_layers": 64,
            "linear_num_value_heads": 48,
            "rope_parameters": QWEN3_5_ROPE,
        },
    ),
    "Gemma-2-9B": (
        9_241_705_984,
        {
            "model_type": "gemma2",
            "hidden_size": 3584,
            "intermediate_size": 14336,
            "num_attention_heads": 16,
            "num_hidden_layers": 42,
            "num_key_value_heads": 8,
        },
    ),
    "OLMo-2-7B": (
        7_298_617_344,
        {
            "model_type": "olmo2",
            "vocab_size": 100352,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "eos_token_id": 100257,
        },
    ),
    "OLMo-3-32B": (
        32_233_522_176,
        {
            "model_type": "olmo3",
            "vocab_size": 100278,
            "hidden_size": 5120,
            "intermediate_size": 27648,
            "num_attention_heads": 40,
            "num_key_value_heads": 8,
            "num_hidden_layers": 64,
            "eos_token_id": 100257,
        },
    ),
    "SmolLM3-3B": (3_075_098_624, {"model_type": "smollm3"}),
    "Phi-3-mini": (3_821_079_552, {"model_type": "phi3"}),
    "Phi-4": (
        14_659_507_200,
        {
            "model_type": "phi3",
            "vocab_size": 100352,
            "hidden_size": 5120,
            "intermediate_size": 17920,
            "num_attention_heads": 40,
            "num_key_value_heads": 10,
            "num_hidden_layers": 40,
            "max_position_embeddings": 16384,
            "rope_theta": 250000,
            "bos_token_id": 100257,
            "eos_token_id": 100257,
            "pad_token_id": 100257,
        },
    ),
    "Granite-3.3-8B": (
        8_170_864_640,
        {
            "model_type": "granite",
            "vocab_size": 49159,
            "hidden_size": 4096,
            "intermediate_size": 12800,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_hidden_layers": 40,
            "rope_theta": 1e7,
            "tie_word_embeddings": True,
        },
    ),
    "Granite-4.0-micro": (
        3_402_836_480,
        {
            "model_type": "granitemoehybrid",
            "vocab_size": 100352,
            "hidden_size": 2560,
            "shared_intermediate_size": 8192,
            "num_attention_heads": 40,
            "num_key_value_heads": 8,
            "num_hidden_layers": 40,
            "layer_types": ["attention"] * 40,
            "num_local_experts": 0,
            "position_embedding_type": "rope",
            "mamba_n_heads": 128,
            "tie_word_embeddings": True,
        },
    ),
    "Mistral-Small-3.1-24B text tower": (
        23_572_403_200,
        {
            "model_type": "mistral",
            "vocab_size": 131072,
            "hidden_size": 5120,
            "intermediate_size": 32768,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_hidden_layers": 40,
            "head_dim": 128,
            "rope_theta": 1e9,
            "sliding_window": None,
        },
    ),
    "Ministral-3-3B text tower": (
        3_429_006_336,
        {
            "model_type": "ministral3",
            "hidden_size": 3072,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "tie_word_embeddings": True,
        },
    ),
    "Mixtral-8x7B": (46_702_792_704, {"model_type": "mixtral"}),
    "Qwen3-30B-A3B": (
        30_532_122_624,
        {
            "model_type": "qwen3_moe",
            "hidden_size": 2048,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "moe_intermediate_size": 768,
            "num_experts": 128,
            "num_experts_per_tok": 8,
        },
    ),
    "Qwen3.5-35B-A3B text": (34_660_610_688, {"model_type": "qwen3_5_moe_text", "rope_parameters": QWEN3_5_ROPE}),
    "gpt-oss-20b": (20_914_757_184, {"model_type": "gpt_oss", "num_hidden_layers": 24, "num_local_experts": 32}),
    "gpt-oss-120b": (116_829_156_672, {"model_type": "gpt_oss"}),
    # In the multimodal release the embedding has 64 more rows than the text vocabulary.
    "Gemma-3-4B text": (
        3_880_099_328,
        {
            "model_type": "gemma3_text",
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "vocab_size": 262144,
        },
    ),
    "Gemma-3-4B text tower": (
        3_880_263_168,
        {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34},
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_real_sizes_have_their_published_parameter_counts(name):
    published, hf = REAL[name]
    cfg = config_from_hf(hf)
    tree = jax.eval_shape(lambda: models.init_params(jax.random.key(0), cfg))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) == published
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**hf))
    scales = [buffer for name, buffer in theirs.named_buffers() if name.endswith("layer_scalar")]
    assert sum(weight.numel() for weight in (*theirs.parameters(), *scales)) == published
