"""Are the gradients of a search real? Derivatives by finite differences beside them; docs/method.md section 12.

A network whose softmax is saturated, or whose gradient is masked in another way, changes under a finite push although
its gradient says that it does not.
"""

import functools

import jax
import jax.numpy as jnp

from latent_audit.interventions import goals as goals_of
from latent_audit.interventions import latent, suffix
from latent_audit.models import decoder
from latent_audit.models.config import ModelConfig


@functools.partial(jax.jit, static_argnames=("cfg", "directions"))
def cosines(params, clean: latent.Clean, mask, goal, state, size, key, *, cfg: ModelConfig, directions: int = 16):
    """Cosine between the gradient's and the finite differences' derivatives along random signs; float32 [B]. Ours.

    Args:
      clean: latent.clean_pass of the same goal; mask: bool [B, P]; goal: int32 [n], or Goals of B rows.
      state: int scalar (traced); size: float32 [B], each coordinate's absolute push to either side; key: PRNG key.
      directions: static, how many random sign vectors the cosine is taken over.
    """
    B, P = mask.shape
    goals = goals_of.as_goals(goal, B)
    n = goals.tokens.shape[1]
    h = jax.lax.dynamic_index_in_dim(clean.states, state, axis=0, keepdims=False)
    context = decoder.make_context(jnp.pad(mask, [(0, 0), (0, n - 1)], constant_values=True), cfg=cfg)
    context = context._replace(beside=clean.beside)
    _, gradient = suffix.loss_and_gradient(params, h, state, context, goals, cfg=cfg)
    gradient = gradient[:, :P].astype(jnp.float32)

    def along(key):
        signs = jax.random.rademacher(key, (B, P, h.shape[-1]), jnp.float32) * mask[..., None]
        push = jnp.pad(signs * size[:, None, None], [(0, 0), (0, n - 1), (0, 0)])
        up, down = (
            suffix.loss(params, (h.astype(jnp.float32) + way * push).astype(h.dtype), state, context, goals, cfg=cfg)
            for way in (1, -1)
        )
        return (gradient * signs).sum(axis=(1, 2)), (up - down) / (2 * size)

    ours, theirs = jax.lax.map(along, jax.random.split(key, directions))
    scale = jnp.linalg.norm(ours, axis=0) * jnp.linalg.norm(theirs, axis=0)
    return jnp.where(scale > 0, (ours * theirs).sum(axis=0) / jnp.where(scale > 0, scale, 1.0), 0.0)
