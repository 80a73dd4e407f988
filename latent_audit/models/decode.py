"""Prefill and decode steps: the prompt's keys and values are kept, and one column of every row is computed at a time.

The layers are one loop with a traced index: an accelerator's compiler reads a layer's weights and cache where they lie
in their stacks. Layers written out one after the other would be 3 to 5 % faster on an H100 and take twice as long to
compile (dev/LOG.md).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from latent_audit.models import decoder
from latent_audit.models.config import ModelConfig, Params
from latent_audit.models.decoder import Edit
from latent_audit.models.kinds import attention, tail
from latent_audit.models.kinds import cache as kinds_cache

# A cache is as wide as a multiple of this. An accelerator's products take columns in eights, and a cache of another
# width is copied into a wider one at every layer and step: on an H100 a third of a step at 512 rows (dev/LOG.md).
COLUMNS_TOGETHER = 8


class Cache(NamedTuple):
    """keys, values: [L, B, K, S, H] over S = prompt columns + the room behind; mask: bool [B, S], False on padding."""

    keys: jax.Array
    values: jax.Array
    mask: jax.Array


def prefill(
    params: Params, tokens: jax.Array, mask: jax.Array, *, cfg: ModelConfig, room: int, edit: Edit | None = None
) -> tuple[jax.Array, Cache | kinds_cache.Cache]:
    """Run the prompt and keep its keys and values.

    Args:
      tokens: int32 [B, P]; mask: bool [B, P], left-padded.
      room: static, how many decode slots to reserve behind the prompt.
      edit: edit(h, s) -> h on prompt columns, or None.
    Returns:
      (state L at the decision point [B, D], Cache).
    """
    if cfg.kinds:
        return kinds_cache.prefill(params, tokens, mask, cfg=cfg, room=room, edit=edit)
    context = decoder.make_context(mask, cfg=cfg)
    apply_edit = edit if edit is not None else lambda h, s: h

    def step(
        x: jax.Array, stacked: tuple[Params, decoder.LayerNumbers, jax.Array]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        layer, numbers, index = stacked
        x, kept = decoder.block_with_cache(layer, numbers, x, context, cfg=cfg)
        return apply_edit(x, index + 1), kept

    x = apply_edit(decoder.embed(params, tokens, cfg=cfg), jnp.int32(0))
    indices = jnp.arange(cfg.num_layers, dtype=jnp.int32)
    x, (keys, values) = jax.lax.scan(step, x, (params["blocks"], decoder.layer_numbers(cfg), indices))
    return x[:, -1], with_room(Cache(keys, values, mask), room)


def step(
    params: Params,
    token: jax.Array,
    slot: jax.Array | int,
    cache: Cache | kinds_cache.Cache,
    *,
    cfg: ModelConfig,
    edit: Edit | None = None,
) -> tuple[jax.Array, Cache | kinds_cache.Cache]:
    """Feed one token per row and advance the cache.

    Args:
      token: int32 [B]; slot: int scalar, the cache column all rows write (left padding keeps them aligned).
      edit: edit(h, s) -> h on this column, h: [B, 1, D], or None.
    Returns:
      (state L [B, D], Cache).
    """
    if isinstance(cache, kinds_cache.Cache):
        return kinds_cache.decode_step(params, token, slot, cache, cfg=cfg, edit=edit)
    apply_edit = edit if edit is not None else lambda h, s: h
    context = decoder.decode_context(cache.mask, slot, cfg=cfg)

    def one(index: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        x, keys, values = carry
        layer, numbers = decoder.take_layer(params, cfg, index)
        turn = attention.turn_of(context, numbers)
        normed = decoder.attention_input(layer, x, cfg=cfg)
        key, value = attention.own_key_value(layer, normed, turn, cfg=cfg)
        keys = jax.lax.dynamic_update_slice(keys, key[None], (index, 0, 0, slot, 0))
        values = jax.lax.dynamic_update_slice(values, value[None], (index, 0, 0, slot, 0))
        all_keys = jax.lax.dynamic_index_in_dim(keys, index, keepdims=False)
        all_values = jax.lax.dynamic_index_in_dim(values, index, keepdims=False)
        mixed = attention.mix(layer, normed, (all_keys, all_values), turn, context.distance, numbers.window, cfg=cfg)
        return apply_edit(tail.finish(layer, x, mixed, cfg=cfg), index + 1), keys, values

    x = apply_edit(decoder.embed(params, token[:, None], cfg=cfg), jnp.int32(0))
    x, keys, values = jax.lax.fori_loop(0, cfg.num_layers, one, (x, cache.keys, cache.values))
    return x[:, 0], cache._replace(keys=keys, values=values)


def extend(
    params: Params,
    x: jax.Array,
    found: jax.Array | None,
    cache: Cache | kinds_cache.Cache,
    mask: jax.Array,
    *,
    cfg: ModelConfig,
) -> jax.Array:
    """State L of further columns behind a cache without room, which is left as it is.

    Args:
      x: [R, T, D], residual state 0 of the further columns; found: what beside.look_up finds for them.
      cache: of R rows, or of one row for all; mask: bool [R or 1, S + T], of the cache's S columns and these.
    """
    if isinstance(cache, kinds_cache.Cache):
        return kinds_cache.extend(params, x, found, cache, mask, cfg=cfg)
    context = decoder.make_context(mask, cfg=cfg)

    def step(x: jax.Array, stacked: tuple) -> tuple[jax.Array, None]:
        layer, numbers, *before = stacked
        return decoder.block_behind(layer, numbers, x, context, tuple(before), cfg=cfg)[0], None

    return jax.lax.scan(step, x, (params["blocks"], decoder.layer_numbers(cfg), cache.keys, cache.values))[0]


def rows_of(cache: Cache | kinds_cache.Cache, rows: jax.Array) -> Cache | kinds_cache.Cache:
    """The cache of some rows, int [R]."""
    # All but the mask has its rows behind the layers.
    cut = jax.tree.map(lambda leaf: leaf[:, rows], cache[:-1])
    return cache._replace(**dict(zip(cache._fields[:-1], cut, strict=True)), mask=cache.mask[rows])


def with_room(cache: Cache, room: int) -> Cache:
    """The cache with `room` columns more."""
    behind = [(0, 0), (0, 0), (0, 0), (0, room), (0, 0)]
    mask = jnp.pad(cache.mask, [(0, 0), (0, room)], constant_values=True)
    return Cache(jnp.pad(cache.keys, behind), jnp.pad(cache.values, behind), mask)


def room_behind(prompt: int, new: int, *, cfg: ModelConfig) -> int:
    """How many columns a cache has behind `prompt` of them for `new` tokens, the last of which is never fed."""
    needed = prompt + new - 1
    most = min((r.original_max_positions for r in cfg.ropes if r.kind == "longrope"), default=math.inf)
    wide = math.ceil(needed / COLUMNS_TOGETHER) * COLUMNS_TOGETHER
    return (wide if wide <= most else needed) - prompt
