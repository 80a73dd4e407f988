"""Edits of the residual stream: pytree callables `edit(h, s) -> h`, so that one compile serves them all.

Every constructor returns a `jax.tree_util.Partial`: its arrays are traced, its function is static, and it can be
passed through jit, scan and vmap like any array. `h` is [B, T, D] in the model's dtype, `s` the traced state index
(docs/method.md section 0). States that an edit does not address come back bit for bit. When an edit
acts (on the prompt, on decode steps) is the caller's explicit choice: see models/generate.py.
"""

import functools

import jax.numpy as jnp
from jax.tree_util import Partial


def add_at(state, delta) -> Partial:
    """Add `delta` to residual state `state`.

    Args:
      state: int scalar, or int [B] for another state in each row.
      delta: float32, broadcastable to h: [D], [B, 1, D] or [B, T, D]. The sum is taken in float32 and
        rounded once to h's dtype, so that a small delta on a large bfloat16 coordinate is not rounded twice.
    """
    return Partial(_add_at, jnp.asarray(state, jnp.int32), jnp.asarray(delta))


def add_everywhere(deltas) -> Partial:
    """Add deltas[s] to every residual state s at all positions: float32 [S, D], or [S, B, D] of each row its own."""
    return Partial(_add_everywhere, jnp.asarray(deltas))


def overwrite_at(state, donor, where=None) -> Partial:
    """Replace residual state `state` by `donor` [B, T, D] (or broadcastable), at columns where `where` bool [B, T]."""
    where = jnp.ones((1, 1), bool) if where is None else where
    return Partial(_overwrite_at, jnp.asarray(state, jnp.int32), jnp.asarray(donor), jnp.asarray(where))


def set_projection(state, direction, value) -> Partial:
    """Set the component along `direction` to `value` and leave the rest of the state alone, in float32.

    Args:
      state: int scalar, int [B] for another state in each row, or None for every state.
      direction: [D] of any non-zero length; only its orientation counts. For every state also [S, D], one for each;
        a row of zeros there leaves its state alone.
      value: the new coordinate along the unit vector, a scalar; for every state also float [S], one for each.
    """
    state = None if state is None else jnp.asarray(state, jnp.int32)
    return Partial(_set_projection, state, jnp.asarray(direction, jnp.float32), jnp.asarray(value, jnp.float32))


def project_out(direction) -> Partial:
    """Remove the component along `direction` [D] (any non-zero length) from every state, in float32."""
    return set_projection(None, direction, 0.0)


def only_where(edit, where) -> Partial:
    """Apply `edit` at columns where `where` bool [B, T] (or broadcastable to it), and nowhere else."""
    return Partial(_only_where, edit, jnp.asarray(where, bool))


def compose(*edits) -> Partial:
    """Apply several edits in the order given."""
    return Partial(_compose, tuple(edits))


def _addressed(state, s):
    hit = state == s
    return hit[:, None, None] if hit.ndim else hit


def _add_at(state, delta, h, s):
    moved = (h.astype(jnp.float32) + delta).astype(h.dtype)
    return jnp.where(_addressed(state, s), moved, h)


def _add_everywhere(deltas, h, s):
    delta = deltas[s]
    return (h.astype(jnp.float32) + (delta[:, None] if delta.ndim == 2 else delta)).astype(h.dtype)


def _overwrite_at(state, donor, where, h, s):
    return jnp.where(_addressed(state, s) & where[..., None], donor.astype(h.dtype), h)


def _set_projection(state, direction, value, h, s):
    direction = direction[s] if direction.ndim == 2 else direction
    value = value[s] if value.ndim else value
    unit = direction / jnp.maximum(jnp.linalg.norm(direction), jnp.finfo(jnp.float32).tiny)
    wide = h.astype(jnp.float32)
    moved = wide + (value - wide @ unit)[..., None] * unit
    # Where a state's own direction is zero, `unit` is zero and the sum gives the state back.
    moved = moved.astype(h.dtype)
    return moved if state is None else jnp.where(_addressed(state, s), moved, h)


def _only_where(edit, where, h, s):
    return jnp.where(where[..., None], edit(h, s), h)


def _compose(edits, h, s):
    return functools.reduce(lambda x, edit: edit(x, s), edits, h)
