"""Rows that are being continued token by token, until all have ended; rows that ended leave the batch on the way.

A program runs until so few rows are left that a narrower batch is worth it, and hands the rest to the next. Widths are
few and the same whatever the batch began with, so that few programs are compiled.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from latent_audit.models import decode, decoder, sharding
from latent_audit.models.config import ModelConfig, Params
from latent_audit.models.decoder import Edit
from latent_audit.models.kinds import cache as kinds_cache

# The narrowest batch by platform, each wider one four times as wide. On a CPU a step takes as long as its rows ask for;
# an accelerator streams the weights whatever the rows, and below this width has nothing to gain.
NARROWEST = {"cpu": 4}
NARROWEST_ELSEWHERE = 64
# A narrower batch is a program more. Compiling it takes as long as some 1e10 operations of each layer (a quarter of a
# second on two CPU cores), and it serves some ten calls: what it saves in one has to be more than this.
LEAST_OPERATIONS = 1e9
# Steps between two reports of how far it is.
TOLD_EVERY = 16


class Sampling(NamedTuple):
    """Temperature and top-p sampling with an explicit key; None in its place means greedy.

    key: one, from which each row's is folded by its place in the batch; or one for every row, [B], so that what is
    drawn does not depend on the batch.
    """

    key: jax.Array
    temperature: jax.Array | float = 1.0
    top_p: jax.Array | float = 1.0


class Rules(NamedTuple):
    """What holds for all rows: see generate. Static."""

    max_new_tokens: int
    eos_ids: tuple[int, ...]
    pad_id: int = 0
    repetition_penalty: float = 1.0


class Going(NamedTuple):
    """Rows and how far they are.

    step: int scalar, tokens so far; prompt: int scalar, the columns before them; rows: int32 [R], the place of each in
    the batch it began in; out: int32 [R, new], pad_id where nothing is yet; lengths: int32 [R], the end token counted;
    done: bool [R]; seen: bool [R, V], tokens of the row so far, or [R, 0] without a penalty; cache: see decode.
    """

    step: jax.Array
    prompt: jax.Array
    rows: jax.Array
    out: jax.Array
    lengths: jax.Array
    done: jax.Array
    seen: jax.Array
    cache: decode.Cache | kinds_cache.Cache


def start(
    params: Params,
    x: jax.Array,
    seen: jax.Array,
    cache: decode.Cache | kinds_cache.Cache,
    sampling: Sampling | None,
    *,
    prompt: int,
    cfg: ModelConfig,
    rules: Rules,
) -> Going:
    """The first token of every row, whose `prompt` columns led to state L x [B, D] and `cache`; seen: tokens_seen."""
    B = len(x)
    out, nothing = jnp.full((B, rules.max_new_tokens), rules.pad_id, jnp.int32), jnp.zeros(B, jnp.int32)
    going = Going(jnp.int32(0), jnp.int32(prompt), jnp.arange(B), out, nothing, jnp.zeros(B, bool), seen, cache)
    return _replicated(_said(params, x, going, sampling, cfg=cfg, rules=rules))


def tokens_seen(tokens: jax.Array, mask: jax.Array, *, cfg: ModelConfig, rules: Rules) -> jax.Array:
    """Going.seen of prompts int32 [B, P], mask bool [B, P]."""
    penalised = rules.repetition_penalty != 1.0
    seen = jnp.zeros((len(tokens), cfg.vocab_size if penalised else 0), bool)
    return seen.at[jnp.arange(len(tokens))[:, None], tokens].max(mask) if penalised else seen


@functools.partial(jax.jit, static_argnames=("cfg", "rules"), donate_argnames="going")
def go_on(
    params: Params,
    going: Going,
    edit: Edit | None,
    sampling: Sampling | None,
    until: jax.Array | int,
    few: jax.Array | int,
    least: jax.Array | int,
    *,
    cfg: ModelConfig,
    rules: Rules,
) -> Going:
    """Steps until there are `until` tokens, every row has ended, or `few` rows are left and `least` steps or more.

    edit: on every step's column, h: [R, 1, D]. What `going` held is given up.
    """

    def unfinished(going: Going) -> jax.Array:
        left = jnp.sum(~going.done)
        wide = (left > few) | (rules.max_new_tokens - going.step < least)
        return (going.step < until) & (left > 0) & wide

    def body(going: Going) -> Going:
        token = jax.lax.dynamic_index_in_dim(going.out, going.step - 1, axis=1, keepdims=False)
        slot = going.prompt + going.step - 1
        x, cache = decode.step(params, token, slot, going.cache, cfg=cfg, edit=edit)
        return _said(params, x, going._replace(cache=cache), sampling, cfg=cfg, rules=rules)

    return _replicated(jax.lax.while_loop(unfinished, body, going))


def _replicated(going: Going) -> Going:
    """What the host reads of it on every device of a mesh."""
    return going._replace(out=sharding.replicate(going.out), lengths=sharding.replicate(going.lengths))


def to_the_end(
    params: Params,
    going: Going,
    edit: Edit | None,
    sampling: Sampling | None,
    *,
    cfg: ModelConfig,
    rules: Rules,
    told: Callable[[int], object] | None = None,
) -> tuple[jax.Array | np.ndarray, jax.Array | np.ndarray]:
    """(out, lengths) of all rows, in the order in which they began.

    told: told(tokens so far) every TOLD_EVERY steps and at the end. On a mesh of devices one program runs to the end:
    a batch keeps its split over them, and no process waits for what another's host decides.
    """
    new, B = rules.max_new_tokens, len(going.rows)
    if new == 1:
        return going.out, going.lengths
    if not jax.sharding.get_abstract_mesh().empty:
        going = go_on(params, going, edit, sampling, new, 0, 0, cfg=cfg, rules=rules)
        return going.out, going.lengths
    out, lengths, step, left = None, None, 1, B
    at_rows, drawing = edit, sampling
    while True:
        few = narrower(len(going.rows))
        least = steps_that_pay(params, len(going.rows) - few, cfg=cfg)
        until = new if told is None else min(new, step + TOLD_EVERY)
        going = go_on(params, going, at_rows, drawing, until, few, least, cfg=cfg, rules=rules)
        step, left = int(going.step), int((~np.asarray(going.done)).sum())
        if told is not None:
            told(step if left else new)
        if step >= new or not left:
            break
        if left > few or new - step < least:
            continue
        out, lengths = _collected(out, lengths, going, B)
        while few and left <= narrower(few):
            few = narrower(few)
        going = _narrowed(going, few)
        # A copy: the program that goes on takes `going` over.
        rows = jnp.array(going.rows)
        at_rows = None if edit is None else jax.tree_util.Partial(_at_rows, edit, rows, jnp.zeros(B, bool))
        drawing = sampling if sampling is None or not sampling.key.ndim else sampling._replace(key=sampling.key[rows])
    return (going.out, going.lengths) if out is None else _collected(out, lengths, going, B)


def narrower(rows: int) -> int:
    """The widest batch of at most half the rows, 0 where none is narrow enough."""
    width = NARROWEST.get(jax.default_backend(), NARROWEST_ELSEWHERE)
    if 2 * width > rows:
        return 0
    while 2 * 4 * width <= rows:
        width *= 4
    return width


def steps_that_pay(params: Params, rows: int, *, cfg: ModelConfig) -> int:
    """How many steps with `rows` fewer rows save as much as a program more costs a call."""
    weights = sum(leaf.size for leaf in jax.tree.leaves(params["blocks"])) / cfg.num_layers
    return max(2, math.ceil(LEAST_OPERATIONS / (2 * weights * max(rows, 1))))


@functools.partial(jax.jit, static_argnums=1)
def _narrowed(going: Going, width: int) -> Going:
    """`width` of the rows: all that have not ended, filled up with such as have."""
    kept = jnp.argsort(going.done, stable=True)[:width]
    narrow = {name: leaf[kept] if leaf.ndim else leaf for name, leaf in going._asdict().items() if name != "cache"}
    return Going(**narrow, cache=decode.rows_of(going.cache, kept))


def _collected(
    out: np.ndarray | None, lengths: np.ndarray | None, going: Going, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """What all `count` rows have said so far: of those that left before, and of those that are here."""
    rows = np.asarray(going.rows)
    out = np.zeros((count, going.out.shape[1]), np.int32) if out is None else out
    lengths = np.zeros(count, np.int32) if lengths is None else lengths
    out[rows], lengths[rows] = np.asarray(going.out), np.asarray(going.lengths)
    return out, lengths


def _at_rows(edit: Edit, rows: jax.Array, all_rows: jax.Array, h: jax.Array, s: jax.Array) -> jax.Array:
    # An edit may hold something of each row of the batch that it was made for: it sees the rows at their old places.
    whole = jnp.zeros((len(all_rows), *h.shape[1:]), h.dtype).at[rows].set(h)
    return edit(whole, s)[rows]


def _said(
    params: Params, x: jax.Array, going: Going, sampling: Sampling | None, *, cfg: ModelConfig, rules: Rules
) -> Going:
    """One token more of every row, chosen from state L x [R, D]."""
    logits, seen = _logits(params, x, cfg=cfg), going.seen
    penalised = rules.repetition_penalty != 1.0
    if penalised:
        damped = jnp.where(logits < 0, logits * rules.repetition_penalty, logits / rules.repetition_penalty)
        logits = jnp.where(seen, damped, logits)
    if sampling is None:
        chosen = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    else:
        chosen = _sample(logits, sampling, going.step, going.rows)
    token = jnp.where(going.done, rules.pad_id, chosen)
    if penalised:
        seen = seen.at[jnp.arange(len(token)), token].max(~going.done)
    ends = jnp.asarray(rules.eos_ids, jnp.int32)
    return going._replace(
        step=going.step + 1,
        out=jax.lax.dynamic_update_slice(going.out, token[:, None], (0, going.step)),
        lengths=going.lengths + ~going.done,
        done=going.done | jnp.any(token[:, None] == ends, axis=1),
        seen=seen,
    )


def _logits(params: Params, x: jax.Array, *, cfg: ModelConfig) -> jax.Array:
    """decoder.unembed of x [R, D]; never of one row of a short float alone."""
    # An accelerator would copy the whole head into float32 for that product, in every step (dev/LOG.md).
    alone = len(x) == 1 and x.dtype != jnp.float32
    return decoder.unembed(params, jnp.pad(x, ((0, 7), (0, 0))) if alone else x, cfg=cfg)[: len(x)]


def _sample(logits: jax.Array, sampling: Sampling, step: jax.Array, rows: jax.Array) -> jax.Array:
    logits = logits / sampling.temperature
    order = jnp.argsort(-logits, axis=-1)
    ranked = jnp.take_along_axis(logits, order, axis=-1)
    probability = jax.nn.softmax(ranked, axis=-1)
    # A token stays while the mass ranked strictly above it is short of top_p; the first always stays.
    above = jnp.cumsum(probability, axis=-1) - probability
    ranked = jnp.where((above < sampling.top_p) | (jnp.arange(logits.shape[-1]) == 0), ranked, -jnp.inf)
    if sampling.key.ndim:
        keys = jax.vmap(lambda key: jax.random.fold_in(key, step))(sampling.key)
    else:
        keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(sampling.key, step), row))(rows)
    choice = jax.vmap(jax.random.categorical)(keys, ranked)
    return jnp.take_along_axis(order, choice[:, None], axis=-1)[:, 0].astype(jnp.int32)
