"""What blocks read beside the residual stream: inputs of each layer's own, and keys and values of a layer below.

Gemma 4 E2B and E4B have both (docs/overview.md, Layers of several kinds). The inputs follow from the tokens and from
residual state 0 as it is before any edit, which is what a hook on transformers' first block leaves them. Keys and
values that later layers reuse are those of the last layer of its type that has its own: a pass that begins above that
layer is given them, one that begins below makes them anew.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from latent_audit.models import ops
from latent_audit.models.config import SHARED_KINDS, ModelConfig, Params

# Kind -> the names of its keys and values, in a cache and in Beside.shared.
KEPT = {"softmax": ("keys", "values"), "sliding": ("keys", "values"), "global": ("global_keys", "global_values")}


class Beside(NamedTuple):
    """What a pass over [B, T] columns has beside its residual stream; without leaves in families that know neither.

    inputs: [B, L, T, width], of every layer, or None; shared: name of KEPT -> [B, K, S, H], as the layers below the
    state where the pass begins left them.
    """

    inputs: jax.Array | None
    shared: dict[str, jax.Array]


def look_up(params: Params, tokens: jax.Array, *, cfg: ModelConfig) -> jax.Array | None:
    """What the tokens' ids alone bring to the layers' inputs: int [B, T] -> [B, T, L, width], or None."""
    if cfg.layer_inputs is None:
        return None
    found = params["inputs_embed"][tokens]
    # The scale is rounded to the parameters' dtype first, as transformers does.
    return found * jnp.asarray(lookup_scale(cfg), found.dtype)


def lookup_scale(cfg: ModelConfig) -> float:
    """What the rows of inputs_embed are multiplied by."""
    assert cfg.layer_inputs is not None
    return cfg.layer_inputs.width**0.5


def layer_inputs(params: Params, x: jax.Array, found: jax.Array | None, *, cfg: ModelConfig) -> jax.Array | None:
    """Beside.inputs of residual state 0, x [B, T, D], and look_up's answer."""
    if found is None:
        return None
    projected = jnp.einsum("btd,dlw->btlw", x, params["inputs_projection"]) * cfg.embed_dim**-0.5
    together = ops.norm(projected, params["inputs_norm"], cfg) + found
    return (together * 2.0**-0.5).swapaxes(1, 2)


def nothing_shared(rows: int, columns: int, dtype: DTypeLike, *, cfg: ModelConfig) -> dict[str, jax.Array]:
    """Beside.shared of a pass that begins at state 0: zeros in the place of what its own layers will put there."""
    shared = {}
    for kind in dict.fromkeys(kind for kind in cfg.kinds if kind in SHARED_KINDS):
        heads, width = cfg.num_kv_heads, cfg.head_dim
        if kind == "shared_global":
            assert cfg.global_heads is not None
            heads, width = cfg.global_heads.kv_heads, cfg.global_heads.head_dim
        for name in KEPT[source_of(kind)]:
            shared[name] = jnp.zeros((rows, heads, columns, width), dtype)
    return shared


def source_of(kind: str) -> str:
    """The kind of layer whose keys and values a layer of this kind reads: its own, or that of the layer it shares."""
    return kind.removeprefix("shared_")


def add_inputs(layer: Params, x: jax.Array, own: jax.Array, *, cfg: ModelConfig) -> jax.Array:
    """The end of a block that has inputs of its own, own [B, T, width]: x [B, T, D] -> [B, T, D]."""
    gate = ops.ACTIVATIONS[cfg.activation](x @ layer["inputs_gate"])
    return x + ops.norm((gate * own) @ layer["inputs_output"], layer["post_inputs_norm"], cfg)
