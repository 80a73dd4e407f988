"""What a search lowers, as data: towards a text, away from one, away from a direction; docs/method.md sections 1, 12.

Every row of a search has a goal of its own, so that one compiled search serves them all. The loss of a row is

    sign * min(NLL of its text, cap) + pull * (sum over the later states of <state, direction> at the decision point)
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from latent_audit.models import decoder
from latent_audit.models.config import ModelConfig


class Goals(NamedTuple):
    """One goal a row.

    tokens: int32 [R, n], the text behind the prompt, padded on the right; weights: float32 [R, n], each token's share
    of the NLL, 0 on padding; sign: float32 [R], 1 towards the text, -1 away from it, 0 neither; cap: float32 [R], the
    NLL above which nothing is gained, in nats per token; pull: float32 [R]; directions: float32 [L+1, D] that all rows
    share, or None where no row has a pull.
    """

    tokens: jax.Array
    weights: jax.Array
    sign: jax.Array
    cap: jax.Array
    pull: jax.Array
    directions: jax.Array | None = None


def towards(target, rows: int) -> Goals:
    """The same text int32 [n] for every row: the mean NLL of its tokens is lowered."""
    n = target.shape[0]
    ones = jnp.ones((rows,), jnp.float32)
    return Goals(
        jnp.broadcast_to(target, (rows, n)), jnp.full((rows, n), 1 / n, jnp.float32), ones, ones * jnp.inf, 0 * ones
    )


def towards_each(texts: Sequence[Sequence[int]]) -> Goals:
    """A text of its own for every row, of different lengths: the mean NLL of its tokens is lowered."""
    width, rows = max(map(len, texts)), len(texts)
    tokens, weights = np.zeros((rows, width), np.int32), np.zeros((rows, width), np.float32)
    for row, text in enumerate(texts):
        tokens[row, : len(text)], weights[row, : len(text)] = text, 1 / len(text)
    ones = jnp.ones((rows,), jnp.float32)
    return Goals(jnp.asarray(tokens), jnp.asarray(weights), ones, ones * jnp.inf, 0 * ones)


def as_goals(goal, rows: int) -> Goals:
    """Goals as they are, or a text int32 [n] as everybody's."""
    return goal if isinstance(goal, Goals) else towards(goal, rows)


def take(goals: Goals, rows) -> Goals:
    """Some of the rows, int [R]."""
    chosen = jax.tree.map(lambda leaf: leaf[np.asarray(rows)], goals._replace(directions=None))
    return chosen._replace(directions=goals.directions)


def repeat(goals: Goals, times: int) -> Goals:
    """Each row `times` times, one behind the other."""
    rows = jax.tree.map(lambda leaf: jnp.repeat(leaf, times, axis=0), goals._replace(directions=None))
    return rows._replace(directions=goals.directions)


def target_nll(params, x, tokens, *, cfg: ModelConfig):
    """Negative log-likelihood of `tokens` int32 [R, n] read from states L `x` [R, n, D]; float32 [R, n], in nats."""
    log_probability = jax.nn.log_softmax(decoder.unembed(params, x, cfg=cfg), axis=-1)
    return -jnp.take_along_axis(log_probability, tokens[..., None], axis=-1)[..., 0]


def losses(params, x, goals: Goals, *, cfg: ModelConfig):
    """Loss of the text part of each row from states L `x` [R, n, D] of the columns that predict it; float32 [R].

    The pull of state L, whose decision point is column 0 of x, is part of it; those of the states before it are added
    by the loop that goes through them (suffix.py).
    """
    nll = target_nll(params, x, goals.tokens, cfg=cfg)
    loss = goals.sign * jnp.minimum((nll * goals.weights).sum(axis=-1), goals.cap)
    if goals.directions is None:
        return loss
    return loss + pulled(x[:, 0], cfg.num_layers, goals)


def pulled(x, state, goals: Goals):
    """The pull of one state's decision points `x` [R, D], of goals that have directions; float32 [R]."""
    assert goals.directions is not None
    return goals.pull * (x.astype(jnp.float32) @ goals.directions[state])
