"""Greedy generation behind a text that all prompts begin with: its keys and values are computed once, for one row.

A judge's questions open with the same instruction, and a guard's with its whole list of hazards.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from latent_audit.models import continuing, decode, decoder, sharding
from latent_audit.models.config import ModelConfig, Params
from latent_audit.models.continuing import Rules
from latent_audit.models.generate import Generation
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
    rules = Rules(max_new_tokens, tuple(eos_ids), pad_id)
    going, usable = _begin_behind(params, opening, tokens, mask, cfg=cfg, rules=rules)
    out, lengths = continuing.to_the_end(params, going, None, None, cfg=cfg, rules=rules)
    return Generation(out, lengths, usable)


@functools.partial(jax.jit, static_argnames=("cfg", "rules"))
def _begin_behind(
    params: Params, opening: Opening, tokens: jax.Array, mask: jax.Array, *, cfg: ModelConfig, rules: Rules
) -> tuple[continuing.Going, jax.Array]:
    """generate.begin behind an opening."""
    B, S = len(tokens), opening.keys.shape[3]
    whole = jnp.concatenate([jnp.ones((B, S), bool), mask], axis=1)
    x, kept = columns_behind(params, decoder.embed(params, tokens, cfg=cfg), opening, whole, cfg=cfg)
    prompt, seen = whole.shape[1], continuing.tokens_seen(tokens, mask, cfg=cfg, rules=rules)
    room = decode.room_behind(prompt, rules.max_new_tokens, cfg=cfg)
    cache = decode.with_room(decode.Cache(kept.keys, kept.values, whole), room)
    going = continuing.start(params, x[:, -1], seen, cache, None, prompt=prompt, cfg=cfg, rules=rules)
    usable = is_usable(decoder.unembed(params, x[:, -1], cfg=cfg))
    return going, sharding.replicate(usable)


def columns_behind(
    params: Params, x: jax.Array, opening: Opening, mask: jax.Array, *, cfg: ModelConfig
) -> tuple[jax.Array, Opening]:
    """(state L of the columns x [B, T, D] behind an opening of S, keys and values of all S + T columns).

    mask: bool [B, S + T].
    """
    context = decoder.make_context(mask, cfg=cfg)

    def step(x: jax.Array, stacked: tuple) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        layer, numbers, before = stacked
        return decoder.block_behind(layer, numbers, x, context, before, cfg=cfg)

    x, kept = jax.lax.scan(step, x, (params["blocks"], decoder.layer_numbers(cfg), tuple(opening)))
    return x, Opening(*kept)
