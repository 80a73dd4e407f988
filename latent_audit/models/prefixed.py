"""Greedy generation behind a text that all prompts begin with: its keys and values are computed once, for one row.

A judge's questions open with the same instruction, and a guard's with its whole list of hazards.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from latent_audit.models import decoder, sharding
from latent_audit.models.config import ModelConfig, Params
from latent_audit.models.generate import Cache, Generation, decode_step
from latent_audit.models.usable import is_usable


class Opening(NamedTuple):
    """keys, values: [L, 1, K, S, H] of the S tokens that all prompts begin with."""

    keys: jax.Array
    values: jax.Array


def is_possible(cfg: ModelConfig, columns: int) -> bool:
    """Whether prompts and answers of so many columns can go on behind an opening.

    Between the opening and a prompt's rest lies its padding. Layers that go through the columns one by one (the delta
    rule) would step through it, and a window would count it: such models take their prompts whole, unless no window is
    shorter than all columns.
    """
    return not cfg.kinds and min(cfg.windows) >= columns


@functools.partial(jax.jit, static_argnames="cfg")
def open_with(params: Params, tokens: jax.Array, *, cfg: ModelConfig) -> Opening:
    """The Opening of `tokens` int32 [S]."""
    x = decoder.embed(params, tokens[None], cfg=cfg)
    shape = (cfg.num_layers, 1, cfg.num_kv_heads, 0, cfg.head_dim)
    nothing = Opening(jnp.zeros(shape, x.dtype), jnp.zeros(shape, x.dtype))
    return columns_behind(params, x, nothing, jnp.ones((1, len(tokens)), bool), cfg=cfg)[1]


@functools.partial(jax.jit, static_argnames=("cfg", "max_new_tokens", "eos_ids", "pad_id"))
def generate_behind(
    params: Params,
    opening: Opening,
    tokens: jax.Array,
    mask: jax.Array,
    *,
    cfg: ModelConfig,
    max_new_tokens: int,
    eos_ids: tuple[int, ...],
    pad_id: int = 0,
) -> Generation:
    """What generate gives for the opening's tokens followed by each row's, up to rounding.

    Args:
      tokens: int32 [B, T], what follows the opening; mask: bool [B, T], left-padded, at least one True in a row.
      max_new_tokens, eos_ids, pad_id: static, as in generate; is_possible must hold for S + T + max_new_tokens columns.
    """
    B, S = len(tokens), opening.keys.shape[3]
    ends = jnp.asarray(eos_ids, jnp.int32)
    mask = jnp.concatenate([jnp.ones((B, S), bool), mask], axis=1)
    x, kept = columns_behind(params, decoder.embed(params, tokens, cfg=cfg), opening, mask, cfg=cfg)
    first = decoder.unembed(params, x[:, -1], cfg=cfg)

    def emit(step: jax.Array, out: jax.Array, done: jax.Array, logits: jax.Array) -> tuple:
        token = jnp.where(done, pad_id, jnp.argmax(logits, axis=-1).astype(jnp.int32))
        out = jax.lax.dynamic_update_slice(out, token[:, None], (0, step))
        return step + 1, out, done | jnp.any(token[:, None] == ends, axis=1), token

    def unfinished(carry: tuple) -> jax.Array:
        (step, _, done, _), _ = carry
        return (step < max_new_tokens) & ~jnp.all(done)

    def body(carry: tuple) -> tuple:
        (step, out, done, token), cache = carry
        x, cache = decode_step(params, token, mask.shape[1] + step - 1, cache, cfg=cfg)
        return emit(step, out, done, decoder.unembed(params, x, cfg=cfg)), cache

    out = jnp.full((B, max_new_tokens), pad_id, jnp.int32)
    state = emit(jnp.int32(0), out, jnp.zeros(B, bool), first)
    (_, out, _, _), _ = jax.lax.while_loop(unfinished, body, (state, _cache(kept, mask, max_new_tokens - 1)))
    ended = jnp.any(out[:, :, None] == ends, axis=2)
    lengths = jnp.where(ended.any(axis=1), jnp.argmax(ended, axis=1) + 1, max_new_tokens)
    return sharding.replicate(Generation(out, lengths.astype(jnp.int32), is_usable(first)))


def columns_behind(
    params: Params, x: jax.Array, opening: Opening, mask: jax.Array, *, cfg: ModelConfig
) -> tuple[jax.Array, Opening]:
    """(state L of the columns x [B, T, D] behind an opening of S, keys and values of all S + T columns).

    mask: bool [B, S + T].
    """
    context = decoder.make_context(mask, cfg=cfg)

    def step(x: jax.Array, stacked: tuple) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        layer, numbers, before = stacked
        return decoder.block_behind(layer, numbers, x, context, before, None, cfg=cfg)

    x, kept = jax.lax.scan(step, x, (params["blocks"], decoder.layer_numbers(cfg), tuple(opening)))
    return x, Opening(*kept)


def _cache(kept: Opening, mask: jax.Array, room: int) -> Cache:
    """What generate.decode_step goes on from."""
    behind = [(0, 0), (0, 0), (0, 0), (0, room), (0, 0)]
    return Cache(
        jnp.pad(kept.keys, behind),
        jnp.pad(kept.values, behind),
        jnp.pad(mask, [(0, 0), (0, room)], constant_values=True),
    )
