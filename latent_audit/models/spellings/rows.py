"""The supported families as rows of data: what config.json means where it says nothing, and what is constant for each.

families.py reads and writes config.json by them. A row's `defaults` are what transformers fills in for a field that
config.json leaves out; sparse files (Gemma 3's) rely on them. A test compares every row with what transformers has.
"""

import dataclasses

from latent_audit.models.kinds import gemma4, qwen3_5
from latent_audit.models.spellings import ropes


@dataclasses.dataclass(frozen=True)
class Family:
    """What sets one family apart.

    Attributes:
      architecture: the class that transformers must instantiate for a saved checkpoint.
      defaults: config.json field -> value where the file says nothing.
      switches: ModelConfig fields that are constant for the family.
      activation_field, width_field: the config.json fields that name the MLP's activation and its width.
      window_rule: which layers slide when the file has no `layer_types`: "none", "all", "late" (from
        `max_window_layers` on), "alternate" (the even ones), "pattern" (all but every n-th) or "no_rope" (those
        without rotary positions).
      bias: which attention projections carry one: "none", "qkv", or "switch" (all four if `attention_bias`).
      experts_field: the config.json field that counts the experts, None where there are none.
      sqrt_embedding: token embeddings are multiplied by the square root of their width.
      rope_kinds: the rotary settings that the family knows.
      rope_per_type: sliding and full layers have their own.
      kinds: name in KIND_SPELLINGS of what says which layer is of which kind, where they differ in shape; else empty.
      constants: config.json fields that are written so. Those of `defaults` must hold this when read, too: what else
        they can say is not implemented.
    """

    architecture: str
    defaults: dict
    switches: dict = dataclasses.field(default_factory=dict)
    activation_field: str = "hidden_act"
    width_field: str = "intermediate_size"
    window_rule: str = "none"
    bias: str = "none"
    experts_field: str | None = None
    sqrt_embedding: bool = False
    rope_kinds: tuple[str, ...] = tuple(kind for kind in ropes.KINDS if kind != "proportional")
    rope_per_type: bool = False
    kinds: str = ""
    constants: dict = dataclasses.field(default_factory=dict)


_LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}
_MISTRAL = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "sliding_window": 4096,
}
_QWEN2 = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "bos_token_id": None,
    "eos_token_id": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
_QWEN3 = _QWEN2 | {"head_dim": 128, "attention_bias": False}
_GEMMA = {
    "vocab_size": 256000,
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "tie_word_embeddings": True,
    "attention_bias": False,
}
_GEMMA2 = {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
}
# transformers' Gemma 3 attention reads no attn_logit_softcapping, so the row has none either.
_GEMMA3 = {key: value for key, value in _GEMMA2.items() if key != "attn_logit_softcapping"} | {
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "final_logit_softcapping": None,
    "sliding_window_pattern": 6,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
}
_GEMMA_SWITCHES = {"norm_plus_one": True}
_OLMO2 = {key: value for key, value in _LLAMA.items() if key != "mlp_bias"} | {
    "vocab_size": 50304,
    "rms_norm_eps": 1e-5,
    "bos_token_id": None,
    "eos_token_id": 50279,
}
_OLMO3 = _OLMO2 | {"rope_theta": 5e5, "sliding_window": 4096, "sliding_window_pattern": 4}
_OLMO_SWITCHES = {
    "query_key_norm": True,
    "norm_over_heads": True,
    "pre_norms": False,
    "post_norms": True,
    "norm_wide": True,
}
_SMOLLM3 = _LLAMA | {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "tie_word_embeddings": True,
    "rope_theta": 2e6,
    "use_sliding_window": False,
    "sliding_window": None,
    "no_rope_layers": None,
    "no_rope_layer_interval": 4,
}
_PHI3 = _MISTRAL | {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_key_value_heads": None,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 32000,
    "sliding_window": None,
    "partial_rotary_factor": 1.0,
    "original_max_position_embeddings": 4096,
}
_GRANITE = _LLAMA | {
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": 1.0,
    "logits_scaling": 1.0,
}
_GRANITE_HYBRID = {key: value for key, value in _GRANITE.items() if key != "mlp_bias"} | {
    "shared_intermediate_size": 1024,
    "num_local_experts": 8,
    "position_embedding_type": None,
    "layer_types": ["linear_attention"],
}
_MINISTRAL3 = _MISTRAL | {
    "vocab_size": 131072,
    "num_hidden_layers": 34,
    "head_dim": 128,
    "max_position_embeddings": 262144,
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
    "rope_theta": 1e6,
}
# What transformers takes where a Ministral 3 file says nothing of its rotary settings at all.
_MINISTRAL3_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
_QWEN3_MOE = {key: value for key, value in _QWEN3.items() if key != "max_window_layers"} | {
    "hidden_size": 2048,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 24,
    "num_key_value_heads": 4,
    "head_dim": None,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
    "decoder_sparse_step": 1,
}
_MIXTRAL = _MISTRAL | {
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
    "rope_theta": 1e6,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
_QWEN3_5 = {key: value for key, value in _QWEN3.items() if "window" not in key} | {
    "vocab_size": 248320,
    "intermediate_size": 12288,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "partial_rotary_factor": 0.25,
    **qwen3_5.DEFAULTS,
}

_QWEN3_5_MOE = {key: value for key, value in _QWEN3_5.items() if key != "intermediate_size"} | {
    "hidden_size": 2048,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts": 256,
    "num_experts_per_tok": 8,
}
# gpt-oss's own sizes are those of its larger model.
_GPT_OSS = {
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 36,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "bos_token_id": None,
    "eos_token_id": None,
    "tie_word_embeddings": False,
    "attention_bias": True,
    "sliding_window": 128,
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
    "swiglu_alpha": 1.702,
    "swiglu_limit": 7.0,
    "rope_theta": 150000.0,
}
# What transformers takes where a gpt-oss file says nothing of its rotary settings.
_GPT_OSS_ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}

_GEMMA4 = {key: value for key, value in _GEMMA2.items() if key not in gemma4.GEMMA2_ONLY} | gemma4.DEFAULTS

# Each has read(fields, layers) -> ModelConfig's fields, and written(cfg, fields) -> config.json's.
KIND_SPELLINGS = {"qwen3_5": qwen3_5, "gemma4": gemma4}

FAMILIES = {
    "llama": Family("LlamaForCausalLM", _LLAMA, bias="switch"),
    "mistral": Family("MistralForCausalLM", _MISTRAL, window_rule="all"),
    "qwen2": Family("Qwen2ForCausalLM", _QWEN2, window_rule="late", bias="qkv"),
    "qwen3": Family("Qwen3ForCausalLM", _QWEN3, {"query_key_norm": True}, window_rule="late", bias="switch"),
    "qwen3_5_text": Family(
        "Qwen3_5ForCausalLM",
        _QWEN3_5,
        {"query_key_norm": True, "norm_plus_one": True, "query_gate": True},
        bias="switch",
        rope_kinds=("default",),
        kinds="qwen3_5",
    ),
    "qwen3_5_moe_text": Family(
        "Qwen3_5MoeForCausalLM",
        _QWEN3_5_MOE,
        {"query_key_norm": True, "norm_plus_one": True, "query_gate": True, "renormalise_experts": True},
        width_field="moe_intermediate_size",
        bias="switch",
        experts_field="num_experts",
        rope_kinds=("default",),
        kinds="qwen3_5",
    ),
    "gemma": Family("GemmaForCausalLM", _GEMMA, _GEMMA_SWITCHES, bias="switch", sqrt_embedding=True),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        _GEMMA2,
        _GEMMA_SWITCHES | {"post_norms": True},
        activation_field="hidden_activation",
        window_rule="alternate",
        bias="switch",
        sqrt_embedding=True,
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        _GEMMA3,
        _GEMMA_SWITCHES | {"post_norms": True, "query_key_norm": True},
        activation_field="hidden_activation",
        window_rule="pattern",
        bias="switch",
        sqrt_embedding=True,
        rope_per_type=True,
    ),
    "gemma4_text": Family(
        "Gemma4ForCausalLM",
        _GEMMA4,
        {"post_norms": True, "query_key_norm": True, "norm_wide": True, "value_norm": True, "layer_scale": True},
        activation_field="hidden_activation",
        bias="switch",
        sqrt_embedding=True,
        rope_kinds=("default", "proportional"),
        rope_per_type=True,
        kinds="gemma4",
    ),
    "olmo2": Family("Olmo2ForCausalLM", _OLMO2, _OLMO_SWITCHES, bias="switch"),
    "olmo3": Family(
        "Olmo3ForCausalLM", _OLMO3, _OLMO_SWITCHES, window_rule="pattern", bias="switch", rope_per_type=True
    ),
    "smollm3": Family("SmolLM3ForCausalLM", _SMOLLM3, window_rule="no_rope", bias="switch"),
    "phi3": Family("Phi3ForCausalLM", _PHI3, window_rule="all", rope_kinds=("default", ropes.LONGROPE)),
    "granite": Family("GraniteForCausalLM", _GRANITE, bias="switch"),
    # Granite 4's dense models: the hybrid's code without its state-space layers and its experts.
    "granitemoehybrid": Family(
        "GraniteMoeHybridForCausalLM",
        _GRANITE_HYBRID,
        width_field="shared_intermediate_size",
        bias="switch",
        constants={"num_local_experts": 0, "position_embedding_type": "rope", "mamba_n_heads": 1},
    ),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM",
        _QWEN3_MOE,
        {"query_key_norm": True},
        width_field="moe_intermediate_size",
        window_rule="all",
        bias="switch",
        experts_field="num_experts",
        constants={"decoder_sparse_step": 1},
    ),
    "mixtral": Family(
        "MixtralForCausalLM",
        _MIXTRAL,
        {"renormalise_experts": True},
        window_rule="all",
        experts_field="num_local_experts",
    ),
    "gpt_oss": Family(
        "GptOssForCausalLM",
        _GPT_OSS | {"rope_parameters": _GPT_OSS_ROPE},
        {"norm_wide": True, "renormalise_experts": True, "expert_bias": True, "sinks": True},
        window_rule="alternate",
        bias="switch",
        experts_field="num_local_experts",
    ),
    "ministral3": Family(
        "Ministral3ForCausalLM", _MINISTRAL3 | {"rope_parameters": _MINISTRAL3_ROPE}, window_rule="all"
    ),
}


@dataclasses.dataclass(frozen=True)
class Tower:
    """A multimodal model whose text decoder is read: its class, the rows that decoder may be of, the first by default.

    constants: fields of the text decoder that this class does not apply.
    """

    architecture: str
    families: tuple[str, ...]
    constants: dict = dataclasses.field(default_factory=dict)


TOWERS = {
    "gemma3": Tower("Gemma3ForConditionalGeneration", ("gemma3_text",), {"final_logit_softcapping": None}),
    "gemma4": Tower("Gemma4ForConditionalGeneration", ("gemma4_text",)),
    "qwen3_5": Tower("Qwen3_5ForConditionalGeneration", ("qwen3_5_text",)),
    "qwen3_5_moe": Tower("Qwen3_5MoeForConditionalGeneration", ("qwen3_5_moe_text",)),
    "mistral3": Tower("Mistral3ForConditionalGeneration", ("mistral", "ministral3")),
}
