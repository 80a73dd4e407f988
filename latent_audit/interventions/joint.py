"""One vector per residual state and prompt, all of them at once, added at every position; docs/method.md section 12.

A model may withstand a push of any one state and give way to pushes of several. Ours.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from latent_audit.interventions import edits, latent, sphere
from latent_audit.interventions import goals as goals_of
from latent_audit.models import decoder, sharding
from latent_audit.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Search:
    """What is compiled into the search: steps: gradient steps; step_fraction: step size over each state's length."""

    steps: int = 16
    step_fraction: float = 0.3


class JointAttack(NamedTuple):
    """delta: float32 [B, L+1, D], the iterate of lowest loss; loss_first, loss_last: float32 [B]."""

    delta: jax.Array
    loss_first: jax.Array
    loss_last: jax.Array


@functools.partial(jax.jit, static_argnames=("cfg", "search"))
def joint_attack(params, tokens, mask, goal, length, *, cfg: ModelConfig, search: Search) -> JointAttack:
    """Search every state at once, each state's vector on the sphere of its own length.

    From zero, each step goes step_fraction * length along the negative normalised gradient of every state's vector, and
    each is then rescaled to its length, as in the search of one state (sphere.py).

    Args:
      tokens: int32 [B, P]; mask: bool [B, P], left-padded; goal: int32 [n], or Goals of B rows.
      length: float32 [L+1, B], absolute; search: static.
    """
    (B, P), goals = tokens.shape, goals_of.as_goals(goal, tokens.shape[0])
    tokens, mask = latent.with_target(tokens, mask, goals.tokens)
    length = jnp.asarray(length, jnp.float32).T[..., None]

    def loss(delta):
        last, at = decoder.scan_states(
            params,
            tokens,
            mask,
            cfg=cfg,
            edit=edits.add_everywhere(delta.transpose(1, 0, 2)),
            collect=lambda h: h[:, P - 1],
        )
        losses = goals_of.losses(params, last[:, P - 1 :], goals, cfg=cfg)
        if goals.directions is not None:
            along = jnp.einsum("sbd,sd->b", at[1:-1].astype(jnp.float32), goals.directions[1:-1])
            losses = losses + goals.pull * along
        return losses.sum(), losses

    def step(carry, _):
        delta, best = carry
        (_, losses), gradient = jax.value_and_grad(loss, has_aux=True)(delta)
        moved = length * sphere.unit(delta - search.step_fraction * length * sphere.unit(gradient))
        return (moved, latent.better(best, delta, losses)), losses

    start = jnp.zeros((B, cfg.num_layers + 1, cfg.embed_dim), jnp.float32)
    (delta, best), losses = jax.lax.scan(step, (start, (start, jnp.full((B,), jnp.inf))), length=search.steps)
    delta, last = latent.better(best, delta, loss(delta)[1])
    return sharding.replicate(JointAttack(delta, losses[0], last))
