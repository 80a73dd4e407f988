"""One block of a model whose layers differ in shape: a switch over the kinds of layer, by the traced layer index.

Parameters are stacked by name over the layers that have them (config.layers_with). What every layer has comes sliced;
of the rest a block gets the whole stacks and takes its own place inside its branch, so that nothing else is copied.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from latent_audit.models import ops
from latent_audit.models.config import (
    SHARED_KINDS,
    ModelConfig,
    Params,
    distinct_kinds,
    kind_shapes,
    layers_with,
    plain_name,
)
from latent_audit.models.kinds import attention, beside, delta_rule, tail

# Kind -> what a later decode step needs of a layer.
CACHED: dict[str, tuple[str, ...]] = beside.KEPT | {"delta": ("columns", "matrices")} | dict.fromkeys(SHARED_KINDS, ())


class Before(NamedTuple):
    """A cache behind which a block goes on.

    stacks: name -> [layers of that kind + 1, B or 1, ...]; slot: column at which the call's own keys are written, or
    None where the cache has no room and they come behind it.
    """

    stacks: dict[str, jax.Array]
    slot: jax.Array | None


def split_blocks(params: Params, cfg: ModelConfig) -> tuple[Params, Params]:
    """(stacks of what every layer has, stacks of the rest); the rest is empty where all layers are alike."""
    blocks = params["blocks"]
    if not cfg.kinds:
        return blocks, {}
    common = {name for name, layers in layers_with(cfg).items() if len(layers) == cfg.num_layers}
    rest = {name: stack for name, stack in blocks.items() if name not in common}
    return {name: blocks[name] for name in common}, rest


def kind_numbers(cfg: ModelConfig) -> tuple[jax.Array, dict[str, jax.Array]] | tuple[None, None]:
    """(which kind each layer is, name -> each layer's place in that stack), int32 [L]; (None, None) if all are alike.

    A layer that is not in a stack has the place behind its end, which in a cache is there to be written to.
    """
    if not cfg.kinds:
        return None, None
    kinds = distinct_kinds(cfg)
    found = {name: layers for name, layers in layers_with(cfg).items() if len(layers) < cfg.num_layers}
    found |= {name: layers_that_keep(cfg, name) for kind in kinds for name in CACHED[kind]}
    places = {
        name: jnp.asarray([layers.index(i) if i in layers else len(layers) for i in range(cfg.num_layers)], jnp.int32)
        for name, layers in found.items()
    }
    return jnp.asarray([kinds.index(kind) for kind in cfg.kinds], jnp.int32), places


def grows(name: str) -> bool:
    """Whether what is kept under this name has an axis of columns, [..., B, K, columns, H]: keys and values."""
    return name.endswith(("keys", "values"))


def layers_that_keep(cfg: ModelConfig, name: str) -> tuple[int, ...]:
    """The layers that have an entry of this name in a cache."""
    return tuple(layer for layer, kind in enumerate(cfg.kinds) if name in CACHED[kind])


def block(
    layer: Params,
    numbers: Any,
    x: jax.Array,
    shared: Params,
    context: Any,
    *,
    cfg: ModelConfig,
    first_query: int = 0,
    before: Before | None = None,
    keep: bool = False,
) -> tuple[jax.Array, Params, Params]:
    """Residual state s -> s + 1 by a layer of its own kind.

    Args:
      layer, numbers: as decoder.take_layer gives them; x: [B, T, D]; shared: as the layers below left it, see
        beside.Beside; context: decoder.Context of these T columns, its distances to all keys, those of `before`
        included.
      first_query: static; columns before it are left out of the output.
      before: the cache that this call goes on from, or None at the start of the texts.
      keep: static; whether to return what a later decode needs.
    Returns:
      (output [B, T - first_query, D], shared as this layer leaves it, kept: name -> one layer's entry of the cache,
      zero for other kinds, or empty).
    """
    operands = (layer, numbers, x, shared, context, before)
    run = functools.partial(block_of, cfg=cfg, first_query=first_query)
    branches = [functools.partial(run, kind) for kind in distinct_kinds(cfg)]
    if not keep:
        return *jax.lax.switch(numbers.kind, [_keeping_nothing(b) for b in branches], *operands), {}
    shapes = [jax.eval_shape(branch, *operands)[2] for branch in branches]
    every = {name: shape for kept in shapes for name, shape in kept.items()}
    return jax.lax.switch(numbers.kind, [_with_zeros(b, every) for b in branches], *operands)


def _keeping_nothing(branch: Callable) -> Callable:
    return lambda *operands: branch(*operands)[:2]


def _with_zeros(branch: Callable, every: dict) -> Callable:
    def run(*operands: Any) -> tuple:
        out, shared, kept = branch(*operands)
        return out, shared, {name: kept.get(name, jnp.zeros(shape.shape, shape.dtype)) for name, shape in every.items()}

    return run


def block_of(
    kind: str,
    layer: Params,
    numbers: Any,
    x: jax.Array,
    shared: Params,
    context: Any,
    before: Before | None,
    *,
    cfg: ModelConfig,
    first_query: int = 0,
) -> tuple[jax.Array, Params, Params]:
    """(output, shared, kept) of a layer of this kind, which a decode step knows without a switch; see block.

    numbers: whatever is not among its `places` is in `layer` and in `before` as that layer's own.
    """
    layer = {plain_name(name): _at(layer, numbers, name) for name in kind_shapes(cfg, kind)}
    past = [_at(before.stacks, numbers, name) for name in CACHED[kind]] if before is not None else []
    # One row of a cache may stand for all rows.
    past = [jnp.broadcast_to(entry, (x.shape[0], *entry.shape[1:])) for entry in past]
    normed = ops.norm(x, layer["attention_norm"], cfg)
    kept: tuple
    if kind == "delta":
        assert cfg.delta_rule is not None
        memory = delta_rule.Memory(*past) if past else delta_rule.empty_memory(len(x), cfg.delta_rule, x.dtype)
        mixed, kept = delta_rule.mix(layer, normed, context.starts, memory, cfg=cfg, first_query=first_query)
    else:
        turn = attention.turn_of(context, numbers)
        seen, kept, shared = _keys(kind, layer, normed, turn, shared, past, before, cfg)
        mixed = attention.mix(
            layer, normed, seen, turn, context.distance, numbers.window, cfg=cfg, first_query=first_query
        )
    x = tail.finish(layer, x[:, first_query:], mixed, cfg=cfg)
    if cfg.layer_inputs is not None:
        own = jax.lax.dynamic_index_in_dim(context.beside.inputs, numbers.layer, axis=1, keepdims=False)
        x = beside.add_inputs(layer, x, own[:, first_query:], cfg=cfg)
    if cfg.layer_scale:
        x = x * layer["layer_scale"]
    return x, shared, dict(zip(CACHED[kind], kept, strict=True))


def _keys(
    kind: str,
    layer: Params,
    normed: jax.Array,
    turn: attention.Turn,
    shared: Params,
    past: list[jax.Array],
    before: Before | None,
    cfg: ModelConfig,
) -> tuple[tuple, tuple, Params]:
    """(keys and values that a layer sees, its own ones for the cache, shared as it leaves it)."""
    names = beside.KEPT[beside.source_of(kind)]
    if kind in SHARED_KINDS:
        return tuple(shared[name] for name in names), (), shared
    own = seen = attention.own_key_value(layer, normed, turn, cfg=cfg)
    if before is not None:
        key, value = (attention.join(old, new, before.slot) for old, new in zip(past, own, strict=True))
        seen = (key, value)
    # The last layer that writes is the one that the sharing layers above it read.
    return seen, own, shared | {name: array for name, array in zip(names, seen, strict=True) if name in shared}


def _at(stacks: Params, numbers: Any, name: str) -> jax.Array:
    """One layer's entry: sliced already where every layer has one."""
    if name not in numbers.places:
        return stacks[name]
    return jax.lax.dynamic_index_in_dim(stacks[name], numbers.places[name], keepdims=False)
