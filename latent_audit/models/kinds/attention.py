"""Softmax attention of a layer, of every family."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from latent_audit.models import ops
from latent_audit.models.config import ModelConfig, Params

# cos, sin: [B, T, pairs] of some columns; gain: of their queries, float32 [B, T], or None.
Turn = tuple[jax.Array, jax.Array, jax.Array | None]

# The name of queries, keys and values as attention reads them, for jax.checkpoint's policies.
KEPT = "queries, keys, values"


def turn_of(context: Any, numbers: Any, columns: slice = slice(None)) -> Turn:
    """The Turn of one layer's rope setting at some columns; of decoder.Context and decoder.LayerNumbers."""
    gain = None if context.gain is None else context.gain[numbers.rope][:, columns]
    return context.cos[numbers.rope][:, columns], context.sin[numbers.rope][:, columns], gain


def mix(
    layer: Params,
    x: jax.Array,
    key_value: tuple[jax.Array, jax.Array],
    turn: Turn,
    distance: jax.Array,
    window: jax.Array,
    *,
    cfg: ModelConfig,
    first_query: int = 0,
) -> jax.Array:
    """What one layer adds to its columns.

    Args:
      layer: its parameters; x: [B, T, D], normed; key_value: all keys and values [B, K, S, H] that it sees.
      turn: of its columns; distance: int32 [B, T, S]; window: int scalar; see ops.attend.
      first_query: static; columns before it are keys only, and left out of the output [B, T - first_query, D].
    """
    read = slice(first_query, None)
    cos, sin, gain = turn
    query, gate = _query(layer, x[:, read], (cos[:, read], sin[:, read], None if gain is None else gain[:, read]), cfg)
    mixed = ops.attend(
        _keep(query.swapaxes(1, 2), cfg),
        *key_value,
        distance[:, read],
        window,
        scale=cfg.query_scale,
        cap=cfg.attention_softcap,
        sinks=layer["sinks"] if cfg.sinks else None,
    )
    if gate is not None:
        mixed = mixed * jax.nn.sigmoid(gate)
    mixed = mixed.reshape(*mixed.shape[:2], -1) @ layer["output"].reshape(-1, x.shape[-1])
    return mixed + layer["output_bias"] if cfg.output_bias else mixed


def _query(layer: Params, x: jax.Array, turn: Turn, cfg: ModelConfig) -> tuple[jax.Array, jax.Array | None]:
    """Rotated queries and the gates beside them, or None: [B, T, N, H]."""
    query = _by_head(x, layer["query"])
    if cfg.qkv_bias:
        query = query + layer["query_bias"]
    query, gate = jnp.split(query, 2, axis=-1) if cfg.query_gate else (query, None)
    if cfg.query_key_norm:
        query = ops.norm(query, layer["query_norm"], cfg)
    query, gain = _rotate(query, turn), turn[2]
    return query if gain is None else query * gain[..., None, None].astype(query.dtype), gate


def own_key_value(layer: Params, x: jax.Array, turn: Turn, *, cfg: ModelConfig) -> tuple[jax.Array, jax.Array]:
    """Rotated keys, and values, of a layer's own columns x [B, T, D], normed: [B, K, T, H]."""
    key = _by_head(x, layer["key"])
    if cfg.qkv_bias:
        key = key + layer["key_bias"]
    # Global layers of Gemma 4 may take their keys, before norm and rotation, for values.
    value = key
    if "value" in layer:
        value = _by_head(x, layer["value"])
        value = value + layer["value_bias"] if cfg.qkv_bias else value
    if cfg.value_norm:
        value = ops.norm(value, jnp.ones(value.shape[-1], value.dtype), cfg)
    if cfg.query_key_norm:
        key = ops.norm(key, layer["key_norm"], cfg)
    return _keep(_rotate(key, turn).swapaxes(1, 2), cfg), _keep(value.swapaxes(1, 2), cfg)


def _keep(x: jax.Array, cfg: ModelConfig) -> jax.Array:
    """Marked as what a backward pass may keep in place of the product it was made of, and at the same size.

    Behind a norm of its own it is not: the norm's gradient needs the product, and both would be kept.
    """
    return x if cfg.query_key_norm else checkpoint_name(x, KEPT)


def _by_head(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x [B, T, D] times a weight [D, N, H]: [B, T, N, H]."""
    # As a matrix: the gradient of a product over two axes would copy the weight into another order at every layer.
    return (x @ weight.reshape(weight.shape[0], -1)).reshape(*x.shape[:-1], *weight.shape[1:])


def _rotate(x: jax.Array, turn: Turn) -> jax.Array:
    # Tables of other layers' wider heads are filled in front.
    cos, sin = (table[..., : x.shape[-1] // 2] for table in turn[:2])
    return ops.rotate(x, cos, sin)


def join(old: jax.Array, new: jax.Array, slot: jax.Array | None) -> jax.Array:
    """Keys or values of a cache [B, K, S, H] with new ones written from column `slot` on, or put behind it (None)."""
    if slot is None:
        return jnp.concatenate([old, new], axis=2)
    return jax.lax.dynamic_update_slice(old, new.astype(old.dtype), (0, 0, slot, 0))
