"""Decode steps: one new column of every row, layer by layer, written out one after the other.

What a step reads of a layer, weights and cache, are arrays of their own. In stacks of all layers a compiler copies each
layer out before every product, and weights and cache pass through memory three times instead of once
(dev/LOG.md, generation): the reason for this room, and for the longer compilation that it costs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from latent_audit.models import decoder
from latent_audit.models.config import ModelConfig, Params, layers_with
from latent_audit.models.decoder import Edit
from latent_audit.models.kinds import attention, switch

# Entries of a cache by layer: name of switch.CACHED -> [B, ...].
Entries = tuple[dict[str, jax.Array], ...]


class Columns(NamedTuple):
    """What steps read of the columns before theirs.

    entries: of each layer; keys and values are [B, K, S, H] over S = prompt columns + new tokens; mask: bool [B, S],
    False on padding.
    """

    entries: Entries
    mask: jax.Array


def layers_of(params: Params, *, cfg: ModelConfig) -> tuple[Params, ...]:
    """The weights of each layer by itself, only those that it has: the blocks of `params` once more in memory."""
    there = layers_with(cfg)
    return tuple(
        {name: stack[there[name].index(layer)] for name, stack in params["blocks"].items() if layer in there[name]}
        for layer in range(cfg.num_layers)
    )


def columns_of(stacks: dict[str, jax.Array], mask: jax.Array, *, cfg: ModelConfig, room: int) -> Columns:
    """A prefill's cache by layer, with space for `room` further columns.

    Args:
      stacks: name of switch.CACHED -> [layers that keep it, or more, B, ...]; mask: bool [B, P].
    """
    entries = []
    for layer in range(cfg.num_layers):
        kept = {}
        for name in names_of(cfg, layer):
            place = switch.layers_that_keep(cfg, name).index(layer) if cfg.kinds else layer
            kept[name] = _with_room(stacks[name][place], name, room)
        entries.append(kept)
    return Columns(tuple(entries), jnp.pad(mask, [(0, 0), (0, room)], constant_values=True))


def names_of(cfg: ModelConfig, layer: int) -> tuple[str, ...]:
    """What a layer keeps for later steps."""
    return switch.CACHED[cfg.kinds[layer] if cfg.kinds else "softmax"]


def step(
    params: Params,
    layers: tuple[Params, ...] | None,
    token: jax.Array,
    slot: jax.Array | int,
    columns: Columns,
    *,
    cfg: ModelConfig,
    edit: Edit | None = None,
) -> tuple[jax.Array, Columns]:
    """Feed one token per row: (state L [B, D], the columns with this one).

    Args:
      layers: of layers_of, or None where there is no memory for them: each layer is then cut out of its stacks here.
      token: int32 [B]; slot: int scalar, the column all rows write (left padding keeps them aligned).
      edit: edit(h, s) -> h on this column, h: [B, 1, D], or None.
    """
    apply_edit = edit if edit is not None else lambda h, s: h
    context = decoder.decode_context(columns.mask, slot, cfg=cfg)
    x, context = decoder.enter(params, token[:, None], context, cfg=cfg)
    x, shared, every = apply_edit(x, jnp.int32(0)), context.beside.shared, decoder.layer_numbers(cfg)
    entries = []
    for index, layer in enumerate(layers if layers is not None else layers_of(params, cfg=cfg)):
        numbers, before = jax.tree.map(lambda leaf, at=index: leaf[at], every), columns.entries[index]
        if cfg.kinds:
            # No places: everything here is the layer's own already.
            x, shared, kept = switch.block_of(
                cfg.kinds[index],
                layer,
                numbers._replace(places={}),
                x,
                shared,
                context,
                switch.Before(before, jnp.asarray(slot)),
                cfg=cfg,
            )
            after = {name: _joined(before[name], kept[name], slot, name) for name in before}
        else:
            seen, at = (before["keys"], before["values"]), jnp.asarray(slot)
            x, (keys, values) = decoder.block_behind(layer, numbers, x, context, seen, at, cfg=cfg)
            after = {"keys": keys, "values": values}
        x = apply_edit(x, jnp.int32(index + 1))
        entries.append(after)
    return x[:, 0], columns._replace(entries=tuple(entries))


def rows_of(columns: Columns, rows: jax.Array) -> Columns:
    """Some rows, int [R], of all that there are."""
    return jax.tree.map(lambda leaf: leaf[rows], columns)


def _with_room(entry: jax.Array, name: str, room: int) -> jax.Array:
    return jnp.pad(entry, [(0, 0), (0, 0), (0, room), (0, 0)]) if switch.grows(name) else entry


def _joined(before: jax.Array, kept: jax.Array, slot: jax.Array | int, name: str) -> jax.Array:
    return attention.join(before, kept, jnp.asarray(slot)) if switch.grows(name) else kept.astype(before.dtype)
