"""Jitted generation: one prefill, then cached decode steps, for whole left-padded batches.

Never vmap this: rows are already batched, and a vmapped while loop compiles for seconds and runs until the
slowest member ends. Edits on rows of different states go through `edits.add_at` with a state per row.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from latent_audit.models import continuing, decode, decoder, sharding
from latent_audit.models.config import ModelConfig, Params
from latent_audit.models.continuing import Rules, Sampling
from latent_audit.models.decoder import Edit
from latent_audit.models.kinds import attention, tail
from latent_audit.models.kinds import cache as kinds_cache
from latent_audit.models.usable import is_usable
from latent_audit.runtime import free_memory


class Generation(NamedTuple):
    """tokens: int32 [B, new], pad_id after a row's end; lengths: int32 [B], the end token counted.

    usable: bool [B], False where the logits of the first new token are not all finite, or all the same.
    """

    tokens: jax.Array | np.ndarray
    lengths: jax.Array | np.ndarray
    usable: jax.Array


class Cache(NamedTuple):
    """keys, values: [L, B, K, S, H] over S = prompt columns + new tokens; mask: bool [B, S], False on padding."""

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
    behind = [(0, 0), (0, 0), (0, 0), (0, room), (0, 0)]
    mask = jnp.pad(mask, [(0, 0), (0, room)], constant_values=True)
    return x[:, -1], Cache(jnp.pad(keys, behind), jnp.pad(values, behind), mask)


def decode_step(
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

    def step(index: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
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
    x, keys, values = jax.lax.fori_loop(0, cfg.num_layers, step, (x, cache.keys, cache.values))
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
        return decoder.block_behind(layer, numbers, x, context, tuple(before), None, cfg=cfg)[0], None

    return jax.lax.scan(step, x, (params["blocks"], decoder.layer_numbers(cfg), cache.keys, cache.values))[0]


def row_of(cache: Cache | kinds_cache.Cache, row: jax.Array) -> Cache | kinds_cache.Cache:
    """The cache of one row, which stays an axis of length one."""
    mask = jax.lax.dynamic_slice_in_dim(cache.mask, row, 1)
    # All else has its rows behind the layers.
    cut = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, row, 1, axis=1), cache[:-1])
    return cache._replace(**dict(zip(cache._fields[:-1], cut, strict=True)), mask=mask)


def generate(
    params: Params,
    tokens: jax.Array,
    mask: jax.Array,
    *,
    cfg: ModelConfig,
    max_new_tokens: int,
    eos_ids: tuple[int, ...],
    pad_id: int = 0,
    prompt_edit: Edit | None = None,
    decode_edit: Edit | None = None,
    sampling: Sampling | None = None,
    repetition_penalty: float = 1.0,
    told: Callable[[int], object] | None = None,
) -> Generation:
    """Continue every row until an end token or `max_new_tokens`; rows that have ended leave the batch.

    It waits for the device; what is jitted are its parts.
    Plain greedy decoding unless `sampling` is given (docs/method.md section 0).

    Args:
      params: decoder parameters; tokens: int32 [B, P]; mask: bool [B, P], left-padded.
      max_new_tokens, eos_ids, pad_id, repetition_penalty: static.
      prompt_edit: edit on the prompt's columns only; its effect reaches decode steps through the cache.
      decode_edit: edit on every decode step's column, h: [B, 1, D]. The two are independent: pass both to act
        on every position.
      sampling: Sampling(key, temperature, top_p), or None for greedy.
      repetition_penalty: transformers' rule over the row's real tokens; 1.0 is off. A float, compared at trace time.
      told: told(tokens so far) now and then, see continuing.to_the_end; None: nobody.
    """
    rules = Rules(max_new_tokens, tuple(eos_ids), pad_id, float(repetition_penalty))
    going, usable = begin(params, tokens, mask, prompt_edit, sampling, cfg=cfg, rules=rules)
    if max_new_tokens == 1:
        return Generation(going.out, going.lengths, usable)
    layers = _layers_of(params, cfg=cfg) if _is_room_for_layers(params) else None
    out, lengths = continuing.to_the_end(params, layers, going, decode_edit, sampling, cfg=cfg, rules=rules, told=told)
    return Generation(out, lengths, usable)


@functools.partial(jax.jit, static_argnames=("cfg", "rules"))
def begin(
    params: Params,
    tokens: jax.Array,
    mask: jax.Array,
    edit: Edit | None,
    sampling: Sampling | None,
    *,
    cfg: ModelConfig,
    rules: Rules,
) -> tuple[continuing.Going, jax.Array]:
    """Read the prompts and say the first token: (what goes on from there, Generation.usable)."""
    x, cache = prefill(params, tokens, mask, cfg=cfg, room=0, edit=edit)
    stacks = cache.stacks if isinstance(cache, kinds_cache.Cache) else {"keys": cache.keys, "values": cache.values}
    columns = decode.columns_of(stacks, mask, cfg=cfg, room=rules.max_new_tokens - 1)
    going = continuing.start(params, x, tokens, mask, columns, sampling, cfg=cfg, rules=rules)
    first = decoder.unembed(params, x, cfg=cfg)
    usable = is_usable(first)
    going = going._replace(out=sharding.replicate(going.out), lengths=sharding.replicate(going.lengths))
    return going, sharding.replicate(usable)


_layers_of = jax.jit(decode.layers_of, static_argnames="cfg")


def _is_room_for_layers(params: Params) -> bool:
    """Whether the blocks' weights fit into half of the free memory once more; on a mesh they are never laid apart, so
    that all processes run one program."""
    if not jax.sharding.get_abstract_mesh().empty:
        return False
    return 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(params["blocks"])) <= free_memory.free_bytes()
