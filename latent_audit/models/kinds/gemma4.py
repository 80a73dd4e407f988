"""config.json fields of Gemma 4 that say which layers are of which kind, and their sizes."""

import dataclasses

from latent_audit.errors import InputError
from latent_audit.models.config import FULL_ATTENTION, GlobalHeads, ModelConfig
from latent_audit.models.fields import flag, number, shown
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
    "use_double_wide_mlp": False,
    "enable_moe_block": False,
    "rope_parameters": {
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
}
# Fields of Gemma 2 that this family has not.
GEMMA2_ONLY = ("attn_logit_softcapping", "query_pre_attn_scalar")
_KINDS = {"sliding_attention": "sliding", "full_attention": "global"}


def read(fields: dict, layers: int) -> dict:
    """The ModelConfig fields that differ from those of families with one kind of layer; InputError for what is none."""
    types = _layer_types(fields, layers)
    for name in ("num_kv_shared_layers", "hidden_size_per_layer_input"):
        if fields[name]:
            raise InputError(
                f"config.json: {name} = {shown(fields[name])}: layers that share keys or read inputs of their own "
                "(E2B, E4B) are not implemented; expected 0"
            )
    heads = _global_heads(fields, types)
    full, local = ropes.read_ropes(fields, per_type=True, kinds=("default", "proportional"))
    return {
        "kinds": tuple(_KINDS[one] for one in types),
        "global_heads": heads,
        "windows": tuple(
            number(fields, "sliding_window") if one == "sliding_attention" else FULL_ATTENTION for one in types
        ),
        "ropes": (dataclasses.replace(full, head_dim=heads.head_dim), local),
        "rope_of_layer": tuple(int(one == "sliding_attention") for one in types),
        "query_scale": 1.0,
    }


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
        "layer_types": [names[kind] for kind in cfg.kinds],
        "global_head_dim": cfg.global_heads.head_dim,
        "num_global_key_value_heads": cfg.global_heads.kv_heads,
        "attention_k_eq_v": cfg.global_heads.key_is_value,
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 0,
        "use_double_wide_mlp": False,
        "rope_parameters": {
            "full_attention": ropes.parameter_fields(full) | share,
            "sliding_attention": ropes.parameter_fields(local),
        },
    }
