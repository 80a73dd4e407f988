"""Every supported family as a row of data, read from and written to Hugging Face's config.json.

A row's `defaults` are what transformers fills in for a field that config.json leaves out; sparse files
(Gemma 3's) rely on them. A test compares every row with the installed transformers.
"""

import dataclasses
from typing import Any

from latent_audit.errors import InputError
from latent_audit.models.config import FULL_ATTENTION, ModelConfig, Rope
from latent_audit.models.fields import choice, flag, number, shown, token_ids
from latent_audit.models.kinds import gemma4, qwen3_5
from latent_audit.models.spellings import ropes
from latent_audit.models.spellings.ropes import LAYER_TYPES

ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}


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
        constants={"enable_moe_block": False},
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
    "mistral3": Tower("Mistral3ForConditionalGeneration", ("mistral", "ministral3")),
}
_DTYPES = ("float32", "bfloat16", "float16", "float64", "auto")


def config_from_hf(hf: dict) -> ModelConfig:
    """The ModelConfig of a parsed config.json.

    Raises InputError, naming field and value, for an unsupported architecture or feature or a malformed field.
    """
    given, name = _text_tower(hf)
    family = FAMILIES[name]
    fields = family.defaults | given
    if family.experts_field:
        # transformers 5 writes the one name, 4 wrote the other.
        spelled = [given[name] for name in ("num_experts", "num_local_experts") if name in given]
        fields[family.experts_field] = [fields[family.experts_field], *spelled][-1]
    _refuse_unsupported(fields, family)
    _check_dtype(fields)
    layers, width = number(fields, "num_hidden_layers"), number(fields, "hidden_size")
    heads, max_positions = number(fields, "num_attention_heads"), number(fields, "max_position_embeddings")
    kv_heads = heads if fields["num_key_value_heads"] is None else number(fields, "num_key_value_heads")
    head_dim = width // heads if fields["head_dim"] is None else number(fields, "head_dim")
    if heads % kv_heads or head_dim % 2 or head_dim == 0:
        raise InputError(
            f"config.json: num_attention_heads = {heads}, num_key_value_heads = {kv_heads}, head_dim "
            f"= {head_dim}; expected a multiple of the key-value heads and an even head_dim"
        )
    all_biases = family.bias == "switch" and flag(fields, "attention_bias")
    no_rope = _no_rope_layers(fields, family, layers)
    kinds = KIND_SPELLINGS[family.kinds].read(fields, layers) if family.kinds else {}
    sliding = [False] * layers if family.kinds else _sliding_layers(fields, family, layers, no_rope)
    _check_ids(fields)
    found = dict(
        family=name,
        vocab_size=number(fields, "vocab_size"),
        num_layers=layers,
        embed_dim=width,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        mlp_dim=number(fields, family.width_field),
        norm_eps=number(fields, "rms_norm_eps"),
        query_scale=_query_scale(fields, family, head_dim),
        activation=_activation(fields, family.activation_field, name),
        qkv_bias=all_biases or family.bias == "qkv",
        output_bias=all_biases,
        mlp_bias="mlp_bias" in family.defaults and flag(fields, "mlp_bias"),
        embedding_scale=width**0.5 if family.sqrt_embedding else _factor(fields, family, "embedding_multiplier"),
        residual_scale=_factor(fields, family, "residual_multiplier"),
        logit_divisor=_factor(fields, family, "logits_scaling"),
        attention_softcap=_cap(fields, family, "attn_logit_softcapping"),
        final_softcap=_cap(fields, family, "final_logit_softcapping"),
        tied_head=flag(fields, "tie_word_embeddings"),
        **_experts(fields, family),
        ropes=_ropes(fields, family, head_dim),
        rope_of_layer=tuple(int(one) for one in (sliding if family.rope_per_type else no_rope)),
        windows=tuple(number(fields, "sliding_window") if slides else FULL_ATTENTION for slides in sliding),
        max_positions=max_positions,
        bos_id=next(iter(token_ids(fields, "bos_token_id")), None),
        eos_ids=token_ids(fields, "eos_token_id"),
        **family.switches,
    )
    return ModelConfig(**found | kinds)


def hf_from_config(cfg: ModelConfig, *, dtype: str = "float32", pad_id: int | None = None) -> dict:
    """The config.json of `cfg`, such that config_from_hf gives `cfg` back.

    Fields are spelled the older way (`rope_theta`, `rope_scaling`, `torch_dtype`), which transformers 4 and 5
    both read; families whose layer types differ carry `rope_parameters` as well, saying the same. Raises
    InputError for a ModelConfig that its family cannot express.
    """
    family = FAMILIES[cfg.family]
    sliding = [window < FULL_ATTENTION for window in cfg.windows]
    window = min(cfg.windows) if any(sliding) else None
    eos = list(cfg.eos_ids) if len(cfg.eos_ids) > 1 else next(iter(cfg.eos_ids), None)
    hf = {
        "architectures": [family.architecture],
        "model_type": cfg.family,
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.embed_dim,
        family.width_field: cfg.mlp_dim,
        "num_hidden_layers": cfg.num_layers,
        "num_attention_heads": cfg.num_heads,
        "num_key_value_heads": cfg.num_kv_heads,
        "head_dim": cfg.head_dim,
        family.activation_field: {ours: theirs for theirs, ours in ACTIVATIONS.items()}[cfg.activation],
        "max_position_embeddings": cfg.max_positions,
        "rms_norm_eps": cfg.norm_eps,
        "tie_word_embeddings": cfg.tied_head,
        "bos_token_id": cfg.bos_id,
        "eos_token_id": eos,
        "pad_token_id": pad_id,
        "torch_dtype": dtype,
    }
    switchable = {
        "attention_bias": cfg.output_bias,
        "mlp_bias": cfg.mlp_bias,
        "use_sliding_window": any(sliding),
        "sliding_window": window,
        "query_pre_attn_scalar": round(cfg.query_scale**-2),
        "final_logit_softcapping": cfg.final_softcap,
        "attn_logit_softcapping": cfg.attention_softcap,
        "max_window_layers": sliding.index(True) if any(sliding) else cfg.num_layers,
        "no_rope_layers": [int(cfg.ropes[rope].kind != "none") for rope in cfg.rope_of_layer],
        "partial_rotary_factor": cfg.ropes[0].rotated_share,
        "original_max_position_embeddings": cfg.ropes[0].original_max_positions,
        "embedding_multiplier": cfg.embedding_scale,
        "residual_multiplier": cfg.residual_scale,
        "attention_multiplier": cfg.query_scale,
        "logits_scaling": cfg.logit_divisor,
        family.experts_field or "": cfg.num_experts,
        "num_experts_per_tok": cfg.experts_per_token,
        "norm_topk_prob": cfg.renormalise_experts,
        "layer_types": [LAYER_TYPES[slides] for slides in sliding],
    }
    hf |= {key: value for key, value in switchable.items() if key in family.defaults}
    if family.window_rule not in ("none", "all"):
        hf["layer_types"] = [LAYER_TYPES[slides] for slides in sliding]
    hf |= {"rope_theta": cfg.ropes[0].theta, "rope_scaling": ropes.scaling_fields(cfg.ropes[0])}
    if "rope_local_base_freq" in family.defaults:
        hf["rope_local_base_freq"] = cfg.ropes[-1].theta
    if "rope_parameters" in family.defaults:
        hf["rope_parameters"] = ropes.parameter_fields(cfg.ropes[0])
    if family.rope_per_type:
        both = zip(LAYER_TYPES, (cfg.ropes[0], cfg.ropes[-1]), strict=True)
        hf["rope_parameters"] = {layer_type: ropes.parameter_fields(rope) for layer_type, rope in both}
    if family.kinds:
        hf = KIND_SPELLINGS[family.kinds].written(cfg, hf)
    hf |= family.constants
    _check_round_trip(cfg, hf)
    return hf


def _check_round_trip(cfg: ModelConfig, hf: dict) -> None:
    ours, back = dataclasses.asdict(cfg), dataclasses.asdict(config_from_hf(hf))
    lost = [
        f"{field} = {ours[field]!r} would be read back as {back[field]!r}"
        for field in ours
        if ours[field] != back[field]
    ]
    if lost:
        raise InputError(f"the {cfg.family} family cannot express this ModelConfig: " + "; ".join(lost))


def _text_tower(hf: dict) -> tuple[dict, str]:
    """(the fields of the text decoder, its row in FAMILIES) of a parsed config.json."""
    if not isinstance(hf, dict):
        raise InputError(f"config.json holds a {type(hf).__name__}, expected an object")
    known = {row.architecture: name for rows in (FAMILIES, TOWERS) for name, row in rows.items()}
    architectures = hf.get("architectures") or []
    architecture: Any = architectures[0] if isinstance(architectures, list) and architectures else None
    is_text = all(isinstance(one, str) for one in (hf.get("model_type") or "", architecture or ""))
    name: Any = (hf.get("model_type") or known.get(architecture)) if is_text else None
    if name not in known.values() or (architecture and known.get(architecture) != name):
        raise InputError(
            f"config.json: architectures = {shown(architectures)}, model_type = {shown(hf.get('model_type'))} "
            f"is not supported; supported are {', '.join(known)}"
        )
    if name in FAMILIES:
        return hf, name
    tower, text = TOWERS[name], hf.get("text_config")
    inner = text.get("model_type", tower.families[0]) if isinstance(text, dict) else None
    if not isinstance(text, dict) or inner not in tower.families:
        raise InputError(
            f"config.json: text_config = {shown(text)}, expected the fields of a {' or '.join(tower.families)} decoder"
        )
    # What the whole model names beside the text tower holds for it too.
    shared = ("bos_token_id", "eos_token_id", "quantization_config", "tie_word_embeddings")
    outer = {"tie_word_embeddings": text.get("tie_word_embeddings", True)} | {
        key: hf[key] for key in shared if key in hf
    }
    return text | outer | tower.constants, inner


def leaves_tying_open(hf: dict) -> bool:
    """Whether a multimodal config.json says nothing of a tied head: a head among the weights is one of its own then."""
    return hf.get("model_type") in TOWERS and "tie_word_embeddings" not in hf


def _refuse_unsupported(fields: dict, family: Family) -> None:
    refused = {
        "quantization_config": "quantized weights are not supported; use the bfloat16 or float32 checkpoint",
        "use_bidirectional_attention": "only causal decoders are supported",
        "num_local_experts": "this family is read without experts",
        "num_experts": "this family is read without experts",
        "mlp_only_layers": "dense layers between mixtures of experts are not supported",
    }
    for field, reason in refused.items():
        known = field in family.defaults or (family.experts_field and field.endswith("experts"))
        if fields.get(field) and not known:
            raise InputError(f"config.json: {field} = {shown(fields[field])}: {reason}")
    for field, value in family.constants.items():
        if field in family.defaults and fields[field] != value:
            raise InputError(f"config.json: {field} = {shown(fields[field])} is not supported; expected {value!r}")
    if fields.get("is_causal") not in (None, True):
        raise InputError(
            f"config.json: is_causal = {shown(fields['is_causal'])}: {refused['use_bidirectional_attention']}"
        )


def _check_ids(fields: dict) -> None:
    """The tokens that the model calls its own must be among its own: others were made with another vocabulary."""
    rows = number(fields, "vocab_size")
    for name in ("bos_token_id", "eos_token_id"):
        if max(token_ids(fields, name), default=0) >= rows:
            raise InputError(
                f"config.json: {name} = {shown(fields[name])}, expected ids below vocab_size = {rows}; fetch it again"
            )


def _check_dtype(fields: dict) -> None:
    """What is read is what the weight files hold; a word that is no dtype means that config.json is damaged."""
    for name in ("dtype", "torch_dtype"):
        if fields.get(name) is not None:
            choice({name: str(fields[name]).removeprefix("torch.")}, name, _DTYPES)


def _factor(fields: dict, family: Family, name: str) -> float:
    return number(fields, name) if name in family.defaults else 1.0


def _query_scale(fields: dict, family: Family, head_dim: int) -> float:
    if "attention_multiplier" in family.defaults:
        return number(fields, "attention_multiplier")
    return (number(fields, "query_pre_attn_scalar") if "query_pre_attn_scalar" in family.defaults else head_dim) ** -0.5


def _experts(fields: dict, family: Family) -> dict:
    """The ModelConfig fields of a mixture of experts, none for a dense family."""
    if family.experts_field is None:
        return {}
    experts, picked = number(fields, family.experts_field), number(fields, "num_experts_per_tok")
    if picked > experts:
        raise InputError(
            f"config.json: num_experts_per_tok = {picked}, expected at most {family.experts_field} = {experts}"
        )
    renormalise = {"renormalise_experts": flag(fields, "norm_topk_prob")} if "norm_topk_prob" in family.defaults else {}
    return {"num_experts": experts, "experts_per_token": picked} | renormalise


def _cap(fields: dict, family: Family, name: str) -> float | None:
    return None if name not in family.defaults or fields[name] is None else number(fields, name)


def _activation(fields: dict, field: str, name: str) -> str:
    if name == "gemma" and fields[field] == "gelu":
        return ACTIVATIONS["gelu_pytorch_tanh"]  # Gemma 1's first files wrote gelu and meant the tanh form.
    return ACTIVATIONS[choice(fields, field, ACTIVATIONS)]


def _no_rope_layers(fields: dict, family: Family, layers: int) -> list[bool]:
    """Which layers have no rotary positions."""
    if "no_rope_layers" not in family.defaults:
        return [False] * layers
    given = fields["no_rope_layers"]
    if given is None:
        every = number(fields, "no_rope_layer_interval")
        return [(layer + 1) % every == 0 for layer in range(layers)]
    if not isinstance(given, list) or len(given) < layers or not all(one in (0, 1) for one in given):
        raise InputError(
            f"config.json: no_rope_layers = {shown(given)}, expected 1 (rotary positions) or 0 (none) for each of "
            f"the {layers} layers"
        )
    return [not one for one in given[:layers]]


def _sliding_layers(fields: dict, family: Family, layers: int, no_rope: list[bool]) -> list[bool]:
    """Which layers see only a window: as `layer_types` says, else by the family's rule."""
    switched_off = fields.get("use_sliding_window") is not None and not flag(fields, "use_sliding_window")
    off = fields.get("sliding_window") is None or switched_off
    given, rule = _given_sliding(fields, layers), family.window_rule
    if rule in ("none", "all"):
        alike = [rule == "all" and not off] * layers
        if given not in (None, alike):
            raise InputError(
                f"config.json: layer_types = {shown(fields['layer_types'])}, but this family's layers are all alike; "
                f"expected {LAYER_TYPES[alike[0]]} for each"
            )
        return alike
    sliding = given
    if sliding is None:
        sliding = [not off and one for one in no_rope] if rule == "no_rope" else _by_rule(fields, rule, layers, off)
    if off and any(sliding):
        raise InputError(
            f"config.json: sliding_window = {shown(fields['sliding_window'])}, use_sliding_window = "
            f"{shown(fields.get('use_sliding_window'))}, but some layers slide (layer_types, or the family's "
            "rule); expected a window for them"
        )
    return sliding


def _given_sliding(fields: dict, layers: int) -> list[bool] | None:
    types = fields.get("layer_types")
    if types is None:
        return None
    # Granite 4 writes attention for full_attention.
    types = ["full_attention" if kind == "attention" else kind for kind in types] if isinstance(types, list) else types
    if not isinstance(types, list) or len(types) != layers or not all(kind in LAYER_TYPES for kind in types):
        raise InputError(
            f"config.json: layer_types = {shown(types)}, expected {' or '.join(LAYER_TYPES)} for each "
            f"of the {layers} layers"
        )
    return [kind == "sliding_attention" for kind in types]


def _by_rule(fields: dict, rule: str, layers: int, off: bool) -> list[bool]:
    if rule == "late":
        first = number(fields, "max_window_layers")
        return [not off and layer >= first for layer in range(layers)]
    every = 2 if rule == "alternate" else number(fields, "sliding_window_pattern")
    return [(layer + 1) % every != 0 for layer in range(layers)]


def _ropes(fields: dict, family: Family, head_dim: int) -> tuple[Rope, ...]:
    found = ropes.read_ropes(fields, per_type=family.rope_per_type, kinds=family.rope_kinds)
    if "no_rope_layers" in family.defaults:
        found = (*found, dataclasses.replace(found[0], kind="none"))
    for rope in (rope for rope in found if rope.kind != "proportional"):
        if rope.rotated_share != 1 and "partial_rotary_factor" not in family.defaults:
            raise InputError(
                f"config.json: partial_rotary_factor = {rope.rotated_share}: only whole heads are rotated here; "
                "expected 1.0"
            )
        rotated = int(head_dim * rope.rotated_share)
        if not 0 < rotated <= head_dim or rotated % 2:
            raise InputError(
                f"config.json: partial_rotary_factor = {rope.rotated_share} rotates {rotated} of head_dim = "
                f"{head_dim} dimensions; expected an even number of them"
            )
        for factors in (rope.short_factors, rope.long_factors):
            if rope.kind == ropes.LONGROPE and len(factors) != rotated // 2:
                raise InputError(
                    f"config.json: short_factor and long_factor have {len(rope.short_factors)} "
                    f"and {len(rope.long_factors)} numbers, expected {rotated // 2}, one for each rotated pair"
                )
    return found
