"""Hugging Face's config.json read into a ModelConfig and written from it, by the rows of spellings/rows.py."""

import dataclasses
from typing import Any

from latent_audit.errors import InputError
from latent_audit.models.config import FULL_ATTENTION, ClampedGate, ModelConfig, Rope
from latent_audit.models.fields import choice, flag, number, shown, token_ids
from latent_audit.models.spellings import ropes
from latent_audit.models.spellings.layer_types import read_types
from latent_audit.models.spellings.ropes import LAYER_TYPES
from latent_audit.models.spellings.rows import FAMILIES, KIND_SPELLINGS, TOWERS, Family

ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
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
        "shared_expert_intermediate_size": cfg.shared_expert_dim,
        "layer_types": [LAYER_TYPES[slides] for slides in sliding],
    }
    if cfg.clamped_gate is not None:
        switchable |= {"swiglu_alpha": cfg.clamped_gate.alpha, "swiglu_limit": cfg.clamped_gate.limit}
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
    found = {"num_experts": experts, "experts_per_token": picked} | renormalise
    if "shared_expert_intermediate_size" in family.defaults:
        found["shared_expert_dim"] = number(fields, "shared_expert_intermediate_size")
    if "swiglu_limit" in family.defaults:
        found["clamped_gate"] = ClampedGate(number(fields, "swiglu_alpha"), number(fields, "swiglu_limit"))
    return found


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
    given = fields.get("layer_types")
    if isinstance(given, list):
        # Granite 4 writes attention for full_attention.
        fields = fields | {"layer_types": ["full_attention" if kind == "attention" else kind for kind in given]}
    types = read_types(fields, layers, LAYER_TYPES)
    if types is None:
        return None
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
