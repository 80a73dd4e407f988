"""config.json fields of Gemma 4 that say which layers are of which kind, and their sizes."""

import dataclasses

from latent_audit.errors import InputError
from latent_audit.models.config import FULL_ATTENTION, SHARED_KINDS, GlobalHeads, LayerInputs, ModelConfig
from latent_audit.models.fields import flag, number, shown
from latent_audit.models.kinds.beside import source_of
from latent_audit.models.spellings import ropes
from latent_audit.models.spellings.layer_types import every_nth_full, read_types

# What transformers fills in.
DEFAULTS = {
    "vocab_size": 262144,
    "num_hidden_layers": 30,
    "max_position_embeddings": 131072,
    "final_logit_softcapping": None,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "global_head_dim": 512,
    "num_global_key_value_heads": None,
    "attention_k_eq_v": False,
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 256,
    "vocab_size_per_layer_input": 262144,
    "use_double_wide_mlp": False,
    "enable_moe_block": False,
    "num_experts": None,
    "top_k_experts": None,
    "moe_intermediate_size": None,
    "use_bidirectional_attention": None,
    "rope_parameters": {
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
}
# Fields of Gemma 2 that this family has not.
GEMMA2_ONLY = ("attn_logit_softcapping", "query_pre_attn_scalar")
# Gemma 3n shares its layers' inputs and keys with this family, but its blocks have parts besides.
_GEMMA3N_ONLY = ("laurel_rank", "altup_num_inputs", "altup_active_idx", "activation_sparsity_pattern")
_KINDS = {"sliding_attention": "sliding", "full_attention": "global"}


def read(fields: dict, layers: int) -> dict:
    """The ModelConfig fields that differ from those of families with one kind of layer; InputError for what is none."""
    _refuse(fields)
    types = _layer_types(fields, layers)
    kinds = _kinds(fields, types)
    heads = _global_heads(fields, types)
    wide = flag(fields, "use_double_wide_mlp") and bool(set(kinds) & set(SHARED_KINDS))
    full, local = ropes.read_ropes(fields, per_type=True, kinds=("default", "proportional"))
    return {
        "kinds": kinds,
        "global_heads": heads,
        "shared_mlp_dim": 2 * number(fields, "intermediate_size") if wide else None,
        "layer_inputs": _layer_inputs(fields),
        **_experts(fields),
        "windows": tuple(
            number(fields, "sliding_window") if one == "sliding_attention" else FULL_ATTENTION for one in types
        ),
        "ropes": (dataclasses.replace(full, head_dim=heads.head_dim), local),
        "rope_of_layer": tuple(int(one == "sliding_attention") for one in types),
        "query_scale": 1.0,
    }


def _refuse(fields: dict) -> None:
    for name in _GEMMA3N_ONLY:
        if fields.get(name) is not None:
            raise InputError(
                f"config.json: {name} = {shown(fields[name])}: blocks of Gemma 3n are not implemented; expected a "
                "Gemma 4 checkpoint, which has no such field"
            )
    # Images alone are then seen both ways; texts stay causal.
    if fields["use_bidirectional_attention"] not in (None, False, "vision"):
        raise InputError(
            f"config.json: use_bidirectional_attention = {shown(fields['use_bidirectional_attention'])}: only causal "
            "decoders are supported; expected null or vision"
        )


def _kinds(fields: dict, types: list[str]) -> tuple[str, ...]:
    """The kind of each layer: the last num_kv_shared_layers have no keys and values of their own."""
    shared = _number_or_none(fields, "num_kv_shared_layers")
    own = types[: max(len(types) - shared, 0)]
    without = [one for one in types[len(own) :] if one not in own]
    if without or not own:
        raise InputError(
            f"config.json: num_kv_shared_layers = {shared} of {len(types)} layers: no layer below has the keys and "
            f"values of {without[0]} for them; expected fewer"
        )
    return tuple(("" if layer < len(own) else "shared_") + _KINDS[one] for layer, one in enumerate(types))


def _experts(fields: dict) -> dict:
    """The ModelConfig fields of experts beside the dense MLP of every layer; none where the file has none."""
    if not flag(fields, "enable_moe_block"):
        return {}
    experts, picked = number(fields, "num_experts"), number(fields, "top_k_experts")
    if picked > experts:
        raise InputError(f"config.json: top_k_experts = {picked}, expected at most num_experts = {experts}")
    width = number(fields, "moe_intermediate_size")
    return {"num_experts": experts, "experts_per_token": picked, "renormalise_experts": True, "expert_dim": width}


def _layer_inputs(fields: dict) -> LayerInputs | None:
    width = _number_or_none(fields, "hidden_size_per_layer_input")
    if not width:
        return None
    rows = number(fields, "vocab_size_per_layer_input")
    if rows < number(fields, "vocab_size"):
        raise InputError(
            f"config.json: vocab_size_per_layer_input = {rows}, expected at least vocab_size = {fields['vocab_size']}: "
            "every token needs a row of both tables"
        )
    return LayerInputs(width, rows)


def _number_or_none(fields: dict, name: str) -> int:
    # null is 0 here, as where transformers asks for the truth of the field.
    return 0 if fields[name] is None else number(fields, name)


def _layer_types(fields: dict, layers: int) -> list[str]:
    types = read_types(fields, layers, _KINDS)
    if types is None:
        types = every_nth_full(fields, layers, "sliding_window_pattern", "sliding_attention")
    # The last layer sees all columns, whatever is said of it; as in transformers.
    return [*types[:-1], "full_attention"]


def _global_heads(fields: dict, types: list[str]) -> GlobalHeads:
    """Sizes of full layers, as published files spell them or, layer by layer, as transformers saves them."""
    key_is_value = flag(fields, "attention_k_eq_v")
    given = fields.get("per_layer_config")
    if given is not None:
        each = {str(layer) for layer, one in enumerate(types) if one == "full_attention"}
        rows = list(given.values()) if isinstance(given, dict) else []
        if not rows or set(given) != each or any(row != rows[0] for row in rows) or not isinstance(rows[0], dict):
            raise InputError(
                f"config.json: per_layer_config = {shown(given)}, expected the same fields for every full layer"
            )
        named = {"head_dim": "global_head_dim", "num_key_value_heads": "num_global_key_value_heads"}
        unknown = [name for name in rows[0] if name not in named]
        if unknown:
            raise InputError(
                f"config.json: per_layer_config: {shown(unknown[0])} is not supported; supported are {', '.join(named)}"
            )
        fields = fields | {named[name]: value for name, value in rows[0].items()}
    own = key_is_value and fields["num_global_key_value_heads"] is not None
    kv_heads = number(fields, "num_global_key_value_heads" if own else "num_key_value_heads")
    width, heads = number(fields, "global_head_dim"), number(fields, "num_attention_heads")
    if heads % kv_heads or width % 2:
        raise InputError(
            f"config.json: num_global_key_value_heads = {kv_heads}, global_head_dim = {width}; expected a divisor of "
            f"num_attention_heads = {heads} and an even global_head_dim"
        )
    return GlobalHeads(width, kv_heads, key_is_value)


def written(cfg: ModelConfig, fields: dict) -> dict:
    """`fields` with those that read gives back as they are in `cfg`."""
    assert cfg.global_heads is not None
    names = {kind: name for name, kind in _KINDS.items()}
    full, local = cfg.ropes
    share = {"partial_rotary_factor": full.rotated_share}
    # A `rope_scaling` beside it, even null, would take its place.
    kept = {name: value for name, value in fields.items() if name not in ("rope_theta", "rope_scaling")}
    return kept | {
        "layer_types": [names[source_of(kind)] for kind in cfg.kinds],
        "global_head_dim": cfg.global_heads.head_dim,
        "num_global_key_value_heads": cfg.global_heads.kv_heads,
        "attention_k_eq_v": cfg.global_heads.key_is_value,
        "num_kv_shared_layers": sum(kind in SHARED_KINDS for kind in cfg.kinds),
        "hidden_size_per_layer_input": 0 if cfg.layer_inputs is None else cfg.layer_inputs.width,
        "vocab_size_per_layer_input": cfg.vocab_size if cfg.layer_inputs is None else cfg.layer_inputs.vocab_size,
        "use_double_wide_mlp": cfg.shared_mlp_dim is not None,
        "enable_moe_block": cfg.expert_dim is not None,
        "num_experts": cfg.num_experts or None,
        "top_k_experts": cfg.experts_per_token or None,
        "moe_intermediate_size": cfg.expert_dim,
        "rope_parameters": {
            "full_attention": ropes.parameter_fields(full) | share,
            "sliding_attention": ropes.parameter_fields(local),
        },
    }
