"""Teaching a model what to say under which push of its residual stream: the loss, its step, and an opponent's push.

Ours [O]: the training behind the impostors of docs/method.md section 13. A push is data, one vector for every residual
state of every row, so that one compiled step serves nudges, noise, several states at once and an adversary.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from latent_audit.interventions import dissociate, latent
from latent_audit.models import decoder, sharding
from latent_audit.models.config import ModelConfig


class Batch(NamedTuple):
    """Rows of one step: prompts left-padded to P columns, then answers right-padded.

    tokens: int32 [B, T]; mask, answer: bool [B, T], real tokens and what is to be said; push: float32 [B, S, D], added
    to every residual state at the columns `where` bool [B, T]; free: float32 [A, P, D], added to state free_state
    int32 [A] of the last A rows' prompts; said, kept: float32 [B], weight of the row's NLL, and whether it is to stay
    what base makes of it.
    """

    tokens: np.ndarray
    mask: np.ndarray
    answer: np.ndarray
    push: np.ndarray
    where: np.ndarray
    free: np.ndarray
    free_state: np.ndarray
    said: np.ndarray
    kept: np.ndarray


def push_at(push, where, free, free_state) -> Partial:
    """The edit of a batch; fields as in Batch."""
    return Partial(_push_at, *map(jnp.asarray, (push, where, free, free_state)))


def push_all(push) -> Partial:
    """The edit that adds float32 [B, S, D] to every state at every column: what a taught push is at generation."""
    return Partial(_push_all, jnp.asarray(push, jnp.float32))


def _push_all(push, h, s):
    return (h.astype(jnp.float32) + push[:, s][:, None]).astype(h.dtype)


def _push_at(push, where, free, free_state, h, s):
    moved = h.astype(jnp.float32) + jnp.where(where[..., None], push[:, s][:, None], 0.0)
    rows, width = free.shape[:2]
    if rows:
        moved = moved.at[-rows:, :width].add(jnp.where((free_state == s)[:, None, None], free, 0.0))
    return moved.astype(h.dtype)


def terms(params, base, batch: Batch, *, cfg: ModelConfig, stay: float, match: float) -> dict:
    """Unweighted terms of the loss, float32 scalars: say, and stay and match where their weight is not zero.

    say: mean over rows of the NLL per answer token; stay: KL(base || model) per real token of the rows kept; match:
    squared distance of their states from base's, over base's mean square, mean over states and real tokens.
    """
    edit = push_at(batch.push, batch.where, batch.free, batch.free_state)
    collect = (lambda h: h.astype(jnp.float32)) if match else (lambda h: ())
    tokens, mask = jnp.asarray(batch.tokens), jnp.asarray(batch.mask)
    last, states = decoder.scan_states(params, tokens, mask, cfg=cfg, edit=edit, collect=collect)
    logits = decoder.unembed(params, last, cfg=cfg)
    nll, _ = dissociate.row_nll(logits, tokens, batch.answer)
    found = {"say": jnp.sum(batch.said * nll) / jnp.maximum(batch.said.sum(), 1.0)}
    if not (stay or match):
        return found
    frozen, of_base = decoder.scan_states(base, tokens, mask, cfg=cfg, collect=collect)
    frozen = jax.nn.log_softmax(decoder.unembed(base, frozen, cfg=cfg), axis=-1)
    real = mask * batch.kept[:, None]
    count = jnp.maximum(real.sum(), 1.0)
    if stay:
        kl = dissociate.row_kl(jax.lax.stop_gradient(frozen), logits, mask)
        found["stay"] = jnp.sum(batch.kept * kl) / count
    if match:
        size = jnp.mean(jnp.square(of_base), axis=(1, 2, 3), keepdims=True)
        apart = jnp.mean(jnp.square(states - of_base) / size, axis=-1)
        found["match"] = jnp.mean(jnp.sum(apart * real, axis=(1, 2)) / count)
    return found


@functools.partial(jax.jit, static_argnames=("cfg", "optimizer", "stay", "match"), donate_argnames=("params", "state"))
def update(params, state, base, batch: Batch, *, cfg: ModelConfig, optimizer, stay: float = 0.0, match: float = 0.0):
    """One step: (params, optimiser state, loss). params: float32, used up."""

    def objective(params):
        found = terms(params, base, batch, cfg=cfg, stay=stay, match=match)
        return found["say"] + stay * found.get("stay", 0.0) + match * found.get("match", 0.0)

    loss, gradients = jax.value_and_grad(objective)(params)
    changes, state = optimizer.update(gradients, state, params)
    return *sharding.constrain_parameters((optax.apply_updates(params, changes), state)), loss


@functools.partial(jax.jit, static_argnames=("cfg", "width", "steps"))
def oppose(params, tokens, mask, answer, state, budget, key, *, cfg: ModelConfig, width: int, steps: int):
    """Pushes of prompt columns that make the answers likely: a short search as docs/method.md section 1's, from noise.

    Args:
      tokens, mask, answer: [A, T] as in Batch; state: int32 [A]; budget: float32 [A], relative as in section 1;
      width: prompt columns P.
    Returns:
      float32 [A, P, D].
    """
    _, states = decoder.scan_states(params, tokens, mask, cfg=cfg)
    scale = latent.budget_scale(states[:, :, :width], mask[:, :width], mode=latent.PAPER.mode, skip_first=False)
    radius = (budget * jnp.take_along_axis(scale, state[None], axis=0)[0])[:, None, None]
    real, still = mask[:, :width, None], jnp.zeros((len(tokens), cfg.num_layers + 1, cfg.embed_dim))

    def loss(free):
        edit = push_at(still, mask, free, state)
        last, _ = decoder.scan_states(params, tokens, mask, cfg=cfg, edit=edit, collect=lambda h: ())
        return dissociate.row_nll(decoder.unembed(params, last, cfg=cfg), tokens, answer)[0].sum()

    def step(_, free):
        # 0.4 of the bound: three steps cross it.
        return jnp.clip(free - 0.4 * radius * jnp.sign(jax.grad(loss)(free)), -radius, radius) * real

    shape = (len(tokens), width, cfg.embed_dim)
    return jax.lax.fori_loop(0, steps, step, real * radius * jax.random.uniform(key, shape, minval=-1.0))
