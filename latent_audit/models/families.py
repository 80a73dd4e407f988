"""Every supported family as a row of data, read from and written to Hugging Face's config.json.

A row's `defaults` are what transformers fills in for a field that config.json leaves out; sparse files
(Gemma 3's) rely on them. A test compares every row with the installed transformers.
"""

import dataclasses
import math
from typing import Any

from latent_audit.errors import InputError
from latent_audit.models.config import FULL_ATTENTION, ModelConfig, Rope

ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}


@dataclasses.dataclass(frozen=True)
class Family:
    """What sets one family apart.

    Attributes:
      architecture: the class that transformers must instantiate for a saved checkpoint.
      defaults: config.json field -> value where the file says nothing.
      switches: ModelConfig fields that are constant for the family.
      activation_field: the config.json field that names the MLP activation.
      window_rule: which layers slide when the file has no `layer_types`: "none", "all", "late" (from
        `max_window_layers` on), "alternate" (the even ones) or "pattern" (all but every n-th).
      bias: which attention projections carry one: "none", "qkv", or "switch" (all four if `attention_bias`).
      rope_per_type: sliding and full layers have their own rotary settings.
    """

    architecture: str
    defaults: dict
    switches: dict = dataclasses.field(default_factory=dict)
    activation_field: str = "hidden_act"
    window_rule: str = "none"
    bias: str = "none"
    rope_per_type: bool = False


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
}
_GEMMA_SWITCHES = {"norm_plus_one": True, "scale_embedding": True}

FAMILIES = {
    "llama": Family("LlamaForCausalLM", _LLAMA, bias="switch"),
    "mistral": Family("MistralForCausalLM", _MISTRAL, window_rule="all"),
    "qwen2": Family("Qwen2ForCausalLM", _QWEN2, window_rule="late", bias="qkv"),
    "qwen3": Family("Qwen3ForCausalLM", _QWEN3, {"query_key_norm": True}, window_rule="late", bias="switch"),
    "gemma": Family("GemmaForCausalLM", _GEMMA, _GEMMA_SWITCHES, bias="switch"),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        _GEMMA2,
        _GEMMA_SWITCHES | {"post_norms": True},
        activation_field="hidden_activation",
        window_rule="alternate",
        bias="switch",
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        _GEMMA3,
        _GEMMA_SWITCHES | {"post_norms": True, "query_key_norm": True},
        activation_field="hidden_activation",
        window_rule="pattern",
        bias="switch",
        rope_per_type=True,
    ),
}
MULTIMODAL_TYPE, MULTIMODAL_ARCHITECTURE = "gemma3", "Gemma3ForConditionalGeneration"
_LAYER_TYPES = ("full_attention", "sliding_attention")


def config_from_hf(hf: dict) -> ModelConfig:
    """The ModelConfig of a parsed config.json.

    Raises InputError, naming field and value, for an unsupported architecture or feature or a malformed field.
    """
    given, name = _text_tower(hf)
    family = FAMILIES[name]
    fields = family.defaults | given
    _refuse_unsupported(fields)
    layers, width = _number(fields, "num_hidden_layers"), _number(fields, "hidden_size")
    heads = _number(fields, "num_attention_heads")
    kv_heads = heads if fields["num_key_value_heads"] is None else _number(fields, "num_key_value_heads")
    head_dim = width // heads if fields["head_dim"] is None else _number(fields, "head_dim")
    if heads % kv_heads or head_dim % 2 or head_dim == 0:
        raise InputError(
            f"config.json: num_attention_heads = {heads}, num_key_value_heads = {kv_heads}, head_dim "
            f"= {head_dim}; expected a multiple of the key-value heads and an even head_dim"
        )
    all_biases = family.bias == "switch" and _flag(fields, "attention_bias")
    has_scalar = "query_pre_attn_scalar" in family.defaults
    sliding = _sliding_layers(fields, family, layers)
    return ModelConfig(
        family=name,
        vocab_size=_number(fields, "vocab_size"),
        num_layers=layers,
        embed_dim=width,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        mlp_dim=_number(fields, "intermediate_size"),
        norm_eps=_number(fields, "rms_norm_eps", float),
        query_scale=(_number(fields, "query_pre_attn_scalar", float) if has_scalar else head_dim) ** -0.5,
        activation=_activation(fields, family.activation_field, name),
        qkv_bias=all_biases or family.bias == "qkv",
        output_bias=all_biases,
        mlp_bias="mlp_bias" in family.defaults and _flag(fields, "mlp_bias"),
        attention_softcap=_cap(fields, family, "attn_logit_softcapping"),
        final_softcap=_cap(fields, family, "final_logit_softcapping"),
        tied_head=_flag(fields, "tie_word_embeddings"),
        ropes=_ropes(fields, family),
        rope_of_layer=tuple(int(slides and family.rope_per_type) for slides in sliding),
        windows=tuple(_number(fields, "sliding_window") if slides else FULL_ATTENTION for slides in sliding),
        max_positions=_number(fields, "max_position_embeddings"),
        bos_id=next(iter(_token_ids(fields, "bos_token_id")), None),
        eos_ids=_token_ids(fields, "eos_token_id"),
        **family.switches,
    )


def hf_from_config(cfg: ModelConfig, *, dtype: str = "float32", pad_id: int | None = None) -> dict:
    """The config.json of `cfg`, such that config_from_hf gives `cfg` back.

    Fields are spelled the older way (`rope_theta`, `rope_scaling`, `torch_dtype`), which transformers 4 and 5
    both read; Gemma 3, whose layer types differ, carries `rope_parameters` as well, saying the same. Raises
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
        "intermediate_size": cfg.mlp_dim,
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
    }
    hf |= {key: value for key, value in switchable.items() if key in family.defaults}
    if family.window_rule not in ("none", "all"):
        hf["layer_types"] = [_LAYER_TYPES[slides] for slides in sliding]
    hf |= {"rope_theta": cfg.ropes[0].theta, "rope_scaling": _rope_scaling(cfg.ropes[0])}
    if family.rope_per_type:
        hf["rope_local_base_freq"] = cfg.ropes[-1].theta
        hf["rope_parameters"] = {
            layer_type: {"rope_type": "default", "rope_theta": rope.theta} | (_rope_scaling(rope) or {})
            for layer_type, rope in zip(_LAYER_TYPES, (cfg.ropes[0], cfg.ropes[-1]), strict=True)
        }
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
    by_architecture = {family.architecture: name for name, family in FAMILIES.items()}
    by_architecture[MULTIMODAL_ARCHITECTURE] = MULTIMODAL_TYPE
    architectures = hf.get("architectures") or []
    architecture: Any = architectures[0] if isinstance(architectures, list) and architectures else None
    name: Any = hf.get("model_type") or by_architecture.get(architecture)
    if name not in by_architecture.values() or (architecture and by_architecture.get(architecture) != name):
        raise InputError(
            f"config.json: architectures = {architectures!r}, model_type = {hf.get('model_type')!r} "
            f"is not supported; supported are {', '.join(by_architecture)}"
        )
    if name != MULTIMODAL_TYPE:
        return hf, name
    text = hf.get("text_config")
    if not isinstance(text, dict) or text.get("model_type", "gemma3_text") != "gemma3_text":
        raise InputError(f"config.json: text_config = {text!r}, expected the fields of a gemma3_text decoder")
    # What the whole model names beside the text tower holds for it too; this class applies no final softcap.
    shared = ("bos_token_id", "eos_token_id", "quantization_config")
    outer = {key: hf[key] for key in shared if key in hf}
    outer |= {"tie_word_embeddings": hf.get("tie_word_embeddings", True), "final_logit_softcapping": None}
    return text | outer, "gemma3_text"


def _refuse_unsupported(fields: dict) -> None:
    refused = {
        "quantization_config": "quantized weights are not supported; use the bfloat16 or float32 checkpoint",
        "use_bidirectional_attention": "only causal decoders are supported",
        "num_local_experts": "mixtures of experts are not supported",
        "num_experts": "mixtures of experts are not supported",
    }
    for field, reason in refused.items():
        if fields.get(field):
            raise InputError(f"config.json: {field} = {fields[field]!r}: {reason}")
    if fields.get("partial_rotary_factor") not in (None, 1.0):
        raise InputError(
            f"config.json: partial_rotary_factor = {fields['partial_rotary_factor']!r}: only whole "
            "heads are rotated here; expected 1.0"
        )


def _number(fields: dict, name: str, kind: type = int) -> Any:
    value: Any = fields.get(name)
    is_number = isinstance(value, (int, kind)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        expected = "a positive integer" if kind is int else "a positive number"
        raise InputError(f"config.json: {name} = {value!r}, expected {expected}")
    return kind(value)


def _flag(fields: dict, name: str) -> bool:
    if not isinstance(fields.get(name), bool):
        raise InputError(f"config.json: {name} = {fields.get(name)!r}, expected true or false")
    return fields[name]


def _cap(fields: dict, family: Family, name: str) -> float | None:
    return None if name not in family.defaults or fields[name] is None else _number(fields, name, float)


def _activation(fields: dict, field: str, name: str) -> str:
    value = fields[field]
    if name == "gemma" and value == "gelu":
        value = "gelu_pytorch_tanh"  # Gemma 1's first files wrote gelu and meant the tanh form.
    if value not in ACTIVATIONS:
        raise InputError(f"config.json: {field} = {value!r} is not supported; supported are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[value]


def _token_ids(fields: dict, name: str) -> tuple[int, ...]:
    value = fields.get(name)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in ids):
        raise InputError(f"config.json: {name} = {value!r}, expected a token id or a list of token ids")
    return tuple(ids)


def _sliding_layers(fields: dict, family: Family, layers: int) -> list[bool]:
    """Which layers see only a window."""
    off = fields.get("sliding_window") is None or fields.get("use_sliding_window") is False
    if family.window_rule in ("none", "all"):
        return [family.window_rule == "all" and not off] * layers
    types = fields.get("layer_types")
    if types is not None:
        if not isinstance(types, list) or len(types) != layers or not set(types) <= set(_LAYER_TYPES):
            raise InputError(
                f"config.json: layer_types = {types!r}, expected {' or '.join(_LAYER_TYPES)} for each "
                f"of the {layers} layers"
            )
        sliding = [kind == "sliding_attention" for kind in types]
    elif family.window_rule == "late":
        first = fields["max_window_layers"]
        if not isinstance(first, int) or isinstance(first, bool) or first < 0:
            raise InputError(f"config.json: max_window_layers = {first!r}, expected an integer of at least 0")
        sliding = [not off and layer >= first for layer in range(layers)]
    else:
        every = 2 if family.window_rule == "alternate" else _number(fields, "sliding_window_pattern")
        sliding = [(layer + 1) % every != 0 for layer in range(layers)]
    if off and any(sliding):
        raise InputError(
            f"config.json: sliding_window = {fields['sliding_window']!r}, use_sliding_window = "
            f"{fields.get('use_sliding_window')!r}, but some layers slide (layer_types, or the family's "
            "rule); expected a window for them"
        )
    return sliding


def _ropes(fields: dict, family: Family) -> tuple[Rope, ...]:
    """The rotary settings: one, or (of full layers, of sliding layers) where they differ.

    `rope_parameters` is the newer spelling; where an older `rope_scaling` is left beside it, the older one wins,
    as in transformers.
    """
    new, old = fields.get("rope_parameters") or {}, fields.get("rope_scaling") or {}
    for name, value in (("rope_parameters", new), ("rope_scaling", old)):
        if not isinstance(value, dict):
            raise InputError(f"config.json: {name} = {value!r}, expected an object")
    per_type = any(key in new for key in _LAYER_TYPES)
    if new and per_type != family.rope_per_type:
        raise InputError(
            f"config.json: rope_parameters = {new!r}, expected "
            + (
                f"one object for each of {', '.join(_LAYER_TYPES)}"
                if family.rope_per_type
                else "one object for all layers"
            )
        )
    context = {"original_max_position_embeddings": fields.get("max_position_embeddings")}
    if not family.rope_per_type:
        outside = {key: fields[key] for key in context if fields.get(key) is not None}
        return (_rope(context | {"rope_theta": fields.get("rope_theta", 10000.0)} | (old or new) | outside),)
    if "type" in old and "rope_type" not in old:
        raise InputError(f"config.json: rope_scaling = {old!r}: this family spells type as rope_type")
    full = {"rope_theta": fields.get("rope_theta", 1e6)} | (new.get("full_attention") or {}) | old
    local = {"rope_theta": fields.get("rope_local_base_freq", 10000.0)} | (new.get("sliding_attention") or {})
    return _rope(context | full), _rope(context | local)


# Rotary kind -> (config.json field, Rope field, its type) of what it needs besides the base.
_ROPE_FIELDS = {
    "default": (),
    "linear": (("factor", "factor", float),),
    "llama3": (
        ("factor", "factor", float),
        ("low_freq_factor", "low_freq_factor", float),
        ("high_freq_factor", "high_freq_factor", float),
        ("original_max_position_embeddings", "original_max_positions", int),
    ),
}


def _rope(fields: dict) -> Rope:
    kind = fields.get("rope_type", fields.get("type", "default"))
    if kind not in _ROPE_FIELDS:
        raise InputError(f"config.json: rope_type = {kind!r} is not supported; supported are {', '.join(_ROPE_FIELDS)}")
    _refuse_unsupported(fields)
    values = {ours: _number(fields, theirs, type_) for theirs, ours, type_ in _ROPE_FIELDS[kind]}
    return Rope(theta=_number(fields, "rope_theta", float), kind=kind, **values)


def _rope_scaling(rope: Rope) -> dict | None:
    values = {theirs: getattr(rope, ours) for theirs, ours, _ in _ROPE_FIELDS[rope.kind]}
    return {"rope_type": rope.kind} | values if values else None
