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


def overwrite_at(state, donor, where=None) -> Partial:
    """Replace residual state `state` by `donor` [B, T, D] (or broadcastable), at columns where `where` bool [B, T]."""
    where = jnp.ones((1, 1), bool) if where is None else where
    return Partial(_overwrite_at, jnp.asarray(state, jnp.int32), jnp.asarray(donor), jnp.asarray(where))


def project_out(direction) -> Partial:
    """Remove the component along `direction` [D] (any non-zero length) from every state, in float32."""
    return Partial(_project_out, jnp.asarray(direction, jnp.float32))


def compose(*edits) -> Partial:
    """Apply several edits in the order given."""
    return Partial(_compose, tuple(edits))


def _addressed(state, s):
    hit = state == s
    return hit[:, None, None] if hit.ndim else hit


def _add_at(state, delta, h, s):
    moved = (h.astype(jnp.float32) + delta).astype(h.dtype)
    return jnp.where(_addressed(state, s), moved, h)


def _overwrite_at(state, donor, where, h, s):
    return jnp.where(_addressed(state, s) & where[..., None], donor.astype(h.dtype), h)


def _project_out(direction, h, s):
    del s
    unit = direction / jnp.linalg.norm(direction)
    wide = h.astype(jnp.float32)
    return (wide - (wide @ unit)[..., None] * unit).astype(h.dtype)


def _compose(edits, h, s):
    return functools.reduce(lambda x, edit: edit(x, s), edits, h)

