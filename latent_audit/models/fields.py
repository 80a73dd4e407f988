"""What a checkpoint's JSON files may say: one table of the numbers that are read, and the readers of all fields.

The bounds lie far beyond every published model; they keep a damaged or hostile file from costing hours, memory or a
result that is NaN.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from latent_audit.errors import InputError


class Bounds(NamedTuple):
    """The type of a number, int or float, and the least and the greatest value that is read."""

    kind: type
    least: float
    most: float


_SIZE, _HEADS, _POSITIONS = Bounds(int, 1, 2**20), Bounds(int, 1, 2**14), Bounds(int, 1, 2**30 - 1)
_LAYERS, _VOCABULARY = Bounds(int, 1, 1000), Bounds(int, 1, 2**24)
_FACTOR, _CAP, _EPSILON = Bounds(float, 1e-3, 1e6), Bounds(float, 1e-2, 1e6), Bounds(float, 1e-20, 1)

NUMBERS = {
    "vocab_size": _VOCABULARY,
    "hidden_size": _SIZE,
    "intermediate_size": _SIZE,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": _HEADS,
    "head_dim": _HEADS,
    "max_position_embeddings": _POSITIONS,
    "rms_norm_eps": _EPSILON,
    "query_pre_attn_scalar": Bounds(float, 1e-3, 1e9),
    "attn_logit_softcapping": _CAP,
    "final_logit_softcapping": _CAP,
    "sliding_window": _POSITIONS,
    "sliding_window_pattern": _LAYERS,
    "max_window_layers": Bounds(int, 0, 2**30),
    "rope_theta": Bounds(float, 1e-3, 1e15),
    "rope_local_base_freq": Bounds(float, 1e-3, 1e15),
    "factor": _FACTOR,
    "low_freq_factor": _FACTOR,
    "high_freq_factor": _FACTOR,
    "original_max_position_embeddings": _POSITIONS,
    "beta_fast": _FACTOR,
    "beta_slow": _FACTOR,
    "attention_factor": _FACTOR,
    "mscale": _FACTOR,
    "mscale_all_dim": _FACTOR,
    "partial_rotary_factor": Bounds(float, 1e-3, 1),
    "llama_4_scaling_beta": Bounds(float, 0, 1e3),
    "no_rope_layer_interval": _LAYERS,
    "embedding_multiplier": _FACTOR,
    "residual_multiplier": _FACTOR,
    "attention_multiplier": Bounds(float, 1e-6, 1e6),
    "logits_scaling": _FACTOR,
    "shared_intermediate_size": _SIZE,
    "moe_intermediate_size": _SIZE,
    "num_experts": _HEADS,
    "num_local_experts": _HEADS,
    "num_experts_per_tok": _HEADS,
    "shared_expert_intermediate_size": _SIZE,
    "swiglu_alpha": _FACTOR,
    "swiglu_limit": _FACTOR,
    # Layers of Gemma 4 and Qwen 3.5 that differ from others of their model.
    "global_head_dim": _HEADS,
    "num_global_key_value_heads": _HEADS,
    "top_k_experts": _HEADS,
    "num_kv_shared_layers": Bounds(int, 0, 1000),
    "hidden_size_per_layer_input": Bounds(int, 0, 2**20),
    "vocab_size_per_layer_input": _VOCABULARY,
    "linear_num_key_heads": _HEADS,
    "linear_num_value_heads": _HEADS,
    "linear_key_head_dim": _HEADS,
    "linear_value_head_dim": _HEADS,
    "linear_conv_kernel_dim": Bounds(int, 2, 64),
    "full_attention_interval": _LAYERS,
    # GPT-2's own names.
    "n_positions": _POSITIONS,
    "n_embd": _SIZE,
    "n_layer": _LAYERS,
    "n_head": _HEADS,
    "n_inner": _SIZE,
    "layer_norm_epsilon": _EPSILON,
    # generation_config.json
    "repetition_penalty": Bounds(float, 1e-2, 1e2),
}
# Published ones have some thousand bytes.
MOST_CONFIG_BYTES = 2**20
MOST_TOKEN_ID = 2**31 - 1
MOST_TOKEN_IDS = 256


def shown(value: object) -> str:
    """A foreign value in a message: short, whatever it is."""
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def number(fields: dict, name: str, *, where: str = "config.json") -> Any:
    """The value of a field of NUMBERS, as its type; InputError unless it is such a number within the bounds."""
    value: Any = fields.get(name)
    kind, least, most = NUMBERS[name]
    is_number = isinstance(value, int | kind) and not isinstance(value, bool)
    # `not (a <= b)` catches NaN as well, and compares whole numbers that no float can hold.
    if not (is_number and least <= value <= most):
        what = "a whole number" if kind is int else "a number"
        raise InputError(f"{where}: {name} = {shown(value)}, expected {what} from {least:.15g} to {most:.15g}")
    return kind(value)


def flag(fields: dict, name: str, *, where: str = "config.json") -> bool:
    """The value of a switch; InputError unless it is true or false."""
    if not isinstance(fields.get(name), bool):
        raise InputError(f"{where}: {name} = {shown(fields.get(name))}, expected true or false")
    return fields[name]


def choice(fields: dict, name: str, known: Iterable[str], *, where: str = "config.json") -> str:
    """The value of a field that is one of a few words; InputError, which lists them, otherwise."""
    value, known = fields.get(name), tuple(known)
    if not (isinstance(value, str) and value in known):
        raise InputError(f"{where}: {name} = {shown(value)} is not supported; supported are {', '.join(known)}")
    return value


def token_ids(fields: dict, name: str, *, where: str = "config.json") -> tuple[int, ...]:
    """Token ids of a field that holds one, a list of them or null; InputError for anything else, or a long list."""
    value = fields.get(name)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if len(ids) > MOST_TOKEN_IDS:
        raise InputError(f"{where}: {name} lists {len(ids)} ids, expected at most {MOST_TOKEN_IDS}")
    if not all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one <= MOST_TOKEN_ID for one in ids):
        raise InputError(f"{where}: {name} = {shown(value)}, expected a token id or a list of token ids")
    return tuple(ids)


def check_finite(value: Any, *, where: str) -> None:
    """InputError for NaN or infinity anywhere in parsed JSON: Python reads them, JSON has none."""
    level = [value]
    while level:
        for one in level:
            if isinstance(one, float) and not math.isfinite(one):
                raise InputError(f"{where} holds {one!r}, which is no JSON number; take it out")
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
