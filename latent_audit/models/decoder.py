"""The one decoder that runs every family: pure functions of a parameter tree.

Residual state s = 0 is the embedding output, s = i + 1 the output of block i before the final norm
(docs/method.md section 0). An edit is a function `edit(h, s) -> h` of the residual stream h: [B, T, D] and the
traced state index s; it is applied to every state as that state is made, so what it changes is what
the next block reads and what is returned.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from latent_audit.errors import InputError
from latent_audit.models import ops, sharding
from latent_audit.models.config import ModelConfig, Params
from latent_audit.models.kinds import attention, beside, switch, tail
from latent_audit.models.kinds.beside import Beside

# edit(h, s) -> h, as above.
Edit = Callable[[jax.Array, jax.Array], jax.Array]


class Context(NamedTuple):
    """What all blocks of one pass share.

    cos, sin: rotary tables [R, B, S, pairs]; distance: of keys, int32 [B, T, S]; gain: of queries, float32 [R, B, S],
    or None where no family's rule scales them (ops.query_gain); starts: int32 [B, T], the column at which the text of
    each column begins, for layers that read no distances; None where all layers are alike; beside: see enter.
    """

    cos: jax.Array
    sin: jax.Array
    distance: jax.Array
    gain: jax.Array | None = None
    starts: jax.Array | None = None
    beside: Beside = Beside(None, {})


class LayerNumbers(NamedTuple):
    """What differs between layers without being a weight, int32 [L] or scalars.

    window; rope: which rotary setting; kind, places: see switch.kind_numbers, None where all layers are alike; layer:
    its own number.
    """

    window: jax.Array
    rope: jax.Array
    kind: jax.Array | None = None
    places: dict[str, jax.Array] | None = None
    layer: jax.Array | None = None


class ForwardOutput(NamedTuple):
    """logits: float32 [B, T, V]; resid: [L+1, B, T, D] in the parameters' dtype."""

    logits: jax.Array
    resid: jax.Array


def positions_of(mask: jax.Array) -> jax.Array:
    """Position of every real token in its own row, 0 on left padding; bool [B, T] -> int32 [B, T]."""
    return jnp.maximum(jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1, 0)


def check_columns(cfg: ModelConfig, columns: int) -> None:
    """InputError for more columns of prompt and answer than a longrope's short factors are made for."""
    for rope in cfg.ropes:
        if rope.kind == "longrope" and columns > rope.original_max_positions:
            raise InputError(
                f"{columns} columns of prompts and answers: beyond original_max_position_embeddings = "
                f"{rope.original_max_positions} this model's longrope rotates by other factors, which is not "
                "implemented; expected shorter prompts (prompts.max_tokens) or answers (generation.max_new_tokens)"
            )


def make_context(mask: jax.Array, *, cfg: ModelConfig) -> Context:
    """The shared tables of a full pass over `mask`: bool [B, T], False on padding."""
    # Slots, not positions, order the tokens: padding columns all share position 0.
    slots = jnp.broadcast_to(jnp.arange(mask.shape[1]), mask.shape)
    return context_at(positions_of(mask), ops.key_distance(slots, slots, mask), cfg=cfg, starts=starts_of(mask))


def context_at(
    positions: jax.Array, distance: jax.Array, *, cfg: ModelConfig, starts: jax.Array | None = None
) -> Context:
    """The shared tables of tokens at `positions` int [B, S] whose keys lie `distance` int32 [B, T, S] back.

    starts: int32 [B, T], see Context; needed where layers differ in kind.
    Raises InputError as check_columns.
    """
    check_columns(cfg, distance.shape[-1])
    cos, sin = ops.rotary_tables(cfg.ropes, cfg.head_dim, positions)
    return Context(cos, sin, distance, ops.query_gain(cfg.ropes, positions), starts if cfg.kinds else None)


def decode_context(mask: jax.Array, slot: jax.Array | int, *, cfg: ModelConfig) -> Context:
    """The shared tables of one column at `slot` of a cache over `mask` bool [B, S]."""
    B, S = mask.shape
    slots = jnp.broadcast_to(jnp.arange(S), (B, S))
    position = jnp.sum(mask & (slots < slot), axis=1, dtype=jnp.int32)[:, None]
    distance = ops.key_distance(jnp.full((B, 1), slot), slots, mask)
    return context_at(position, distance, cfg=cfg, starts=starts_of(mask)[:, :1] - slot)


def starts_of(mask: jax.Array) -> jax.Array:
    """The first real column of each row of `mask` bool [B, T], at each of its columns: int32 [B, T]."""
    return jnp.broadcast_to(jnp.argmax(mask, axis=1).astype(jnp.int32)[:, None], mask.shape)


def layer_numbers(cfg: ModelConfig) -> LayerNumbers:
    """Per-layer numbers as int32 [L] arrays, to be scanned beside the stacked weights."""
    windows, ropes = jnp.asarray(cfg.windows, jnp.int32), jnp.asarray(cfg.rope_of_layer, jnp.int32)
    kind, places = switch.kind_numbers(cfg)
    return LayerNumbers(windows, ropes, kind, places, jnp.arange(cfg.num_layers, dtype=jnp.int32))


def take_layer(params: Params, cfg: ModelConfig, index: jax.Array | int) -> tuple[Params, LayerNumbers]:
    """One block's (weights, numbers) at a traced layer index; what not every layer has, as whole stacks."""
    common, rest = switch.split_blocks(params, cfg)
    stacked = (common, layer_numbers(cfg))
    layer, numbers = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), stacked)
    return layer | rest, numbers


def scan_blocks(
    step: Callable, start: Any, params: Params, beside: tuple, *, cfg: ModelConfig, reverse: bool = False
) -> tuple[Any, Any]:
    """jax.lax.scan of step(carry, layer, numbers, *one of each of `beside`) over all layers.

    Args:
      beside: trees with a leading axis of L, scanned beside the weights.
    """
    common, rest = switch.split_blocks(params, cfg)

    def one(carry: Any, stacked: tuple) -> tuple[Any, Any]:
        layer, numbers, others = stacked
        return step(carry, layer | rest, numbers, *others)

    return jax.lax.scan(one, start, (common, layer_numbers(cfg), beside), reverse=reverse)


def embed(params: Params, tokens: jax.Array, *, cfg: ModelConfig) -> jax.Array:
    """Residual state 0 of `tokens` int [B, T]: [B, T, D], the family's scale included."""
    x = params["embed"][tokens]
    if cfg.embedding_scale != 1:
        # The scale is rounded to the parameters' dtype first, as transformers does.
        x = x * jnp.asarray(cfg.embedding_scale, x.dtype)
    # Every pass begins here: what lies over "data" stays there.
    return sharding.constrain(x, "data")


def enter(params: Params, tokens: jax.Array, context: Context, *, cfg: ModelConfig) -> tuple[jax.Array, Context]:
    """Residual state 0 of `tokens` int [B, T], and the context with what the blocks read beside the residual stream."""
    x = embed(params, tokens, cfg=cfg)
    return x, with_beside(params, x, beside.look_up(params, tokens, cfg=cfg), context, cfg=cfg)


def with_beside(
    params: Params, x: jax.Array, found: jax.Array | None, context: Context, *, cfg: ModelConfig
) -> Context:
    """The context with what follows from state 0, x [B, T, D], before any edit, and from beside.look_up's answer."""
    inputs = beside.layer_inputs(params, x, found, cfg=cfg)
    shared = beside.nothing_shared(len(x), context.distance.shape[-1], x.dtype, cfg=cfg)
    return context._replace(beside=Beside(inputs, shared))


def unembed(params: Params, x: jax.Array, *, cfg: ModelConfig) -> jax.Array:
    """Final norm and head: residual state [..., D] -> float32 logits [..., V]."""
    x = ops.norm(x, params["final_norm"], cfg)
    if cfg.tied_head:
        logits = jnp.einsum("...d,vd->...v", x, params["embed"], preferred_element_type=jnp.float32)
    else:
        logits = jnp.einsum("...d,dv->...v", x, params["head"], preferred_element_type=jnp.float32)
    if cfg.logit_divisor != 1:
        logits = logits / cfg.logit_divisor
    return ops.softcap(logits, cfg.final_softcap)


def attention_input(layer: Params, x: jax.Array, *, cfg: ModelConfig) -> jax.Array:
    """What a block's attention reads of its residual state x [B, T, D]: the normed state, or the state itself."""
    return ops.norm(x, layer["attention_norm"], cfg) if cfg.pre_norms else x


def block_with_cache(
    layer: Params, numbers: LayerNumbers, x: jax.Array, context: Context, *, cfg: ModelConfig, first_query: int = 0
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """One block over a whole sequence, returning (output, (keys, values)) for a later decode.

    Args:
      x: [B, S, D]; context: tables of the same S columns.
      first_query: static; columns before it serve as keys only and are left out of the output
        [B, S - first_query, D]. The last block of a search needs only the columns that are read.
    """
    turn = attention.turn_of(context, numbers)
    normed = attention_input(layer, x, cfg=cfg)
    key_value = attention.own_key_value(layer, normed, turn, cfg=cfg)
    mixed = attention.mix(
        layer, normed, key_value, turn, context.distance, numbers.window, cfg=cfg, first_query=first_query
    )
    return tail.finish(layer, x[:, first_query:], mixed, cfg=cfg), key_value


def block_behind(
    layer: Params,
    numbers: LayerNumbers,
    x: jax.Array,
    context: Context,
    before: tuple[jax.Array, jax.Array],
    *,
    cfg: ModelConfig,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """One block over further columns x [R, T, D] behind a cache: (output, keys and values with theirs).

    before: keys and values [R or 1, K, S, H] of a model whose layers are all alike; context: of all S + T columns.
    """
    first = context.distance.shape[1] - x.shape[1]
    turn = attention.turn_of(context, numbers, slice(first, None))
    normed = attention_input(layer, x, cfg=cfg)
    own = attention.own_key_value(layer, normed, turn, cfg=cfg)
    key, value = (
        attention.join(jnp.broadcast_to(old, (len(x), *old.shape[1:])), new, None)
        for old, new in zip(before, own, strict=True)
    )
    mixed = attention.mix(layer, normed, (key, value), turn, context.distance[:, first:], numbers.window, cfg=cfg)
    return tail.finish(layer, x, mixed, cfg=cfg), (key, value)


def block(
    layer: Params,
    numbers: LayerNumbers,
    x: jax.Array,
    shared: Params,
    context: Context,
    *,
    cfg: ModelConfig,
    first_query: int = 0,
) -> tuple[jax.Array, Params]:
    """One block over a whole sequence: residual state s -> s + 1, and `shared` as this layer leaves it.

    shared: beside.Beside.shared as the layers below left it, empty in most families; a pass begins with that of its
    context. See block_with_cache and switch.block.
    """
    if cfg.kinds:
        return switch.block(layer, numbers, x, shared, context, cfg=cfg, first_query=first_query)[:2]
    return block_with_cache(layer, numbers, x, context, cfg=cfg, first_query=first_query)[0], shared


def scan_states(
    params: Params,
    tokens: jax.Array,
    mask: jax.Array,
    *,
    cfg: ModelConfig,
    edit: Edit | None = None,
    collect: Callable = lambda h: h,
) -> tuple[jax.Array, Any]:
    """Run all blocks, collecting `collect(h)` of every residual state.

    Args:
      tokens: int32 [B, T]; mask: bool [B, T], False on left padding.
      edit: edit(h, s) -> h applied to each state as it is made, or None.
      collect: what to keep of each state; keep little (a column, a norm) when T or D are large.
    Returns:
      (state L: [B, T, D], collected with a leading axis of L + 1 states).
    """
    last, _, collected = scan_states_beside(params, tokens, mask, cfg=cfg, edit=edit, collect=collect)
    return last, collected


def scan_states_beside(
    params: Params,
    tokens: jax.Array,
    mask: jax.Array,
    *,
    cfg: ModelConfig,
    edit: Edit | None = None,
    collect: Callable = lambda h: h,
) -> tuple[jax.Array, Context, Any]:
    """As scan_states, with the context in which a pass may begin anew at any state: (state L, Context, collected).

    Its `shared` is that behind the last layer. A layer below that writes it does so again in a pass that begins there.
    """
    apply_edit = edit if edit is not None else lambda h, s: h
    x, context = enter(params, tokens, make_context(mask, cfg=cfg), cfg=cfg)
    start = apply_edit(x, jnp.int32(0))

    def step(carry: tuple, layer: Params, numbers: LayerNumbers, index: jax.Array) -> tuple[tuple, Any]:
        x, shared = block(layer, numbers, carry[0], carry[1], context, cfg=cfg)
        x = apply_edit(x, index + 1)
        return (x, shared), collect(x)

    beside_weights = (jnp.arange(cfg.num_layers, dtype=jnp.int32),)
    (last, shared), collected = scan_blocks(step, (start, context.beside.shared), params, beside_weights, cfg=cfg)
    first = collect(start)
    collected = jax.tree.map(lambda a, rest: jnp.concatenate([a[None], rest]), first, collected)
    return last, context._replace(beside=context.beside._replace(shared=shared)), collected


def state_at(
    params: Params, tokens: jax.Array, mask: jax.Array, state: jax.Array | int, *, cfg: ModelConfig
) -> jax.Array:
    """Residual state `state` alone: runs the blocks below it and keeps nothing else.

    Args:
      tokens: int32 [B, T]; mask: bool [B, T], False on left padding; state: int scalar (traced) in [0, L].
    Returns:
      [B, T, D] in the parameters' dtype.
    """
    return state_and_beside(params, tokens, mask, state, cfg=cfg)[0]


def state_and_beside(
    params: Params, tokens: jax.Array, mask: jax.Array, state: jax.Array | int, *, cfg: ModelConfig
) -> tuple[jax.Array, Beside]:
    """As state_at, with what a pass that begins there reads beside it."""
    x, context = enter(params, tokens, make_context(mask, cfg=cfg), cfg=cfg)

    def step(index: jax.Array, carry: tuple) -> tuple:
        layer, numbers = take_layer(params, cfg, index)
        return block(layer, numbers, carry[0], carry[1], context, cfg=cfg)

    x, shared = jax.lax.fori_loop(0, state, step, (x, context.beside.shared))
    return x, context.beside._replace(shared=shared)


def forward(
    params: Params, tokens: jax.Array, mask: jax.Array, *, cfg: ModelConfig, edit: Edit | None = None
) -> ForwardOutput:
    """Logits and every residual state of a left-padded batch.

    Args:
      params: the tree of config.parameter_shapes; tokens: int32 [B, T]; mask: bool [B, T], False on padding.
      edit: edit(h, s) -> h on the residual stream, or None; see the module docstring.
    Returns:
      ForwardOutput(logits float32 [B, T, V], resid [L+1, B, T, D]); docs/method.md section 0.
    """
    last, resid = scan_states(params, tokens, mask, cfg=cfg, edit=edit)
    return ForwardOutput(unembed(params, last, cfg=cfg), resid)
