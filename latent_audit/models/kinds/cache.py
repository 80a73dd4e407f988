"""Prefill and decode of models whose layers differ in shape: each kind keeps what it needs, stacked by itself."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from latent_audit.models import decoder
from latent_audit.models.config import ModelConfig, Params
from latent_audit.models.decoder import Context, Edit, LayerNumbers
from latent_audit.models.kinds.switch import CACHED, Before, block, grows, layers_that_keep


class Cache(NamedTuple):
    """stacks: name of switch.CACHED -> [layers of that kind + 1, B, ...]; mask: bool [B, S], False on padding.

    The last entry of a stack belongs to no layer: layers of other kinds write there, which keeps the write out of the
    switch, where it would copy the stack.
    """

    stacks: dict[str, jax.Array]
    mask: jax.Array


def prefill(
    params: Params, tokens: jax.Array, mask: jax.Array, *, cfg: ModelConfig, room: int, edit: Edit | None = None
) -> tuple[jax.Array, Cache]:
    """decode.prefill of these models."""
    x, context = decoder.enter(params, tokens, decoder.make_context(mask, cfg=cfg), cfg=cfg)
    x, stacks = _run(params, x, context, None, cfg=cfg, edit=edit, room=room)
    return x[:, -1], Cache(stacks, jnp.pad(mask, [(0, 0), (0, room)], constant_values=True))


def decode_step(
    params: Params, token: jax.Array, slot: jax.Array | int, cache: Cache, *, cfg: ModelConfig, edit: Edit | None = None
) -> tuple[jax.Array, Cache]:
    """decode.step of these models."""
    x, context = decoder.enter(params, token[:, None], decoder.decode_context(cache.mask, slot, cfg=cfg), cfg=cfg)
    x, stacks = _run(params, x, context, Before(cache.stacks, jnp.asarray(slot)), cfg=cfg, edit=edit, room=0)
    return x[:, 0], cache._replace(stacks=stacks)


def extend(
    params: Params, x: jax.Array, found: jax.Array | None, cache: Cache, mask: jax.Array, *, cfg: ModelConfig
) -> jax.Array:
    """decode.extend of these models."""
    T = x.shape[1]
    whole = decoder.make_context(mask, cfg=cfg)
    assert whole.starts is not None
    context = whole._replace(
        cos=whole.cos[:, :, -T:],
        sin=whole.sin[:, :, -T:],
        distance=whole.distance[:, -T:],
        starts=whole.starts[:, -T:] - (mask.shape[1] - T),
    )
    context = decoder.with_beside(params, x, found, context, cfg=cfg)
    before = Before(cache.stacks, None)

    def step(carry: tuple, layer: Params, numbers: LayerNumbers, index: jax.Array) -> tuple:
        return block(layer, numbers, carry[0], carry[1], context, cfg=cfg, before=before)[:2], None

    carry = (x, context.beside.shared)
    return decoder.scan_blocks(step, carry, params, (jnp.arange(cfg.num_layers),), cfg=cfg)[0][0]


def _run(
    params: Params,
    x: jax.Array,
    context: Context,
    before: Before | None,
    *,
    cfg: ModelConfig,
    edit: Edit | None,
    room: int,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """All layers, and the stacks of what they keep: (state L, stacks)."""
    apply_edit = edit if edit is not None else lambda h, s: h

    def one(layer: Params, numbers: LayerNumbers, x: jax.Array, shared: Params, before: Before | None) -> tuple:
        return block(layer, numbers, x, shared, context, cfg=cfg, before=before, keep=True)

    def step(carry: tuple, layer: Params, numbers: LayerNumbers, index: jax.Array) -> tuple:
        x, shared, stacks = carry
        x, shared, kept = one(layer, numbers, x, shared, Before(stacks, before.slot) if before is not None else None)
        start = 0 if before is None or before.slot is None else before.slot
        assert numbers.places is not None
        stacks = {name: _store(stacks[name], kept[name], numbers.places[name], start, name) for name in stacks}
        return (apply_edit(x, index + 1), shared, stacks), None

    if before is None:
        layer, numbers = decoder.take_layer(params, cfg, 0)
        kept = jax.eval_shape(lambda x: one(layer, numbers, x, context.beside.shared, None)[2], x)
        stacks = {
            name: jnp.zeros(
                (len(layers_that_keep(cfg, name)) + 1, *_with_room(kept[name].shape, name, room)), kept[name].dtype
            )
            for kind in dict.fromkeys(cfg.kinds)
            for name in CACHED[kind]
        }
    else:
        stacks = before.stacks
    start = (apply_edit(x, jnp.int32(0)), context.beside.shared, stacks)
    (x, _, stacks), _ = decoder.scan_blocks(step, start, params, (jnp.arange(cfg.num_layers),), cfg=cfg)
    return x, stacks


def _with_room(shape: tuple[int, ...], name: str, room: int) -> tuple[int, ...]:
    return (*shape[:2], shape[2] + room, *shape[3:]) if grows(name) else shape


def _store(stack: jax.Array, kept: jax.Array, place: jax.Array, slot: jax.Array | int, name: str) -> jax.Array:
    at: list = [place, 0, 0, slot, 0] if grows(name) else [place] + [0] * (stack.ndim - 1)
    return jax.lax.dynamic_update_slice(stack, kept[None].astype(stack.dtype), at)
