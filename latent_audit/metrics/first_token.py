"""What a model would say first: log-probabilities of the first response token, refusal log-odds, KL between models.

Cheap stand-ins for generation and judging, used to choose a direction and as a reward: arXiv 2406.11717; docs/method.md
sections 9 and 14.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from latent_audit.errors import InputError
from latent_audit.models import decoder, sharding
from latent_audit.models.config import ModelConfig, Params
from latent_audit.models.decoder import Edit

# [O] A share of openings nearer to 0 or 1 is no other share: the score stays within -+LARGEST, about 20.7 nats.
LEAST = 1e-9
LARGEST = float(np.log1p(-LEAST) - np.log(LEAST))


@functools.partial(jax.jit, static_argnames="cfg")
def log_probability(
    params: Params, tokens: jax.Array, mask: jax.Array, edit: Edit | None = None, *, cfg: ModelConfig
) -> jax.Array:
    """Of the token behind left-padded prompts int32 [B, T], under an edit(h, s) -> h or None; float32 [B, V]."""
    last, _ = decoder.scan_states(params, tokens, mask, cfg=cfg, edit=edit, collect=lambda h: ())
    return sharding.replicate(jax.nn.log_softmax(decoder.unembed(params, last[:, -1], cfg=cfg), axis=-1))


@functools.partial(jax.jit, static_argnames="cfg")
def refusal_score(
    params: Params,
    tokens: jax.Array,
    mask: jax.Array,
    is_opening: jax.Array,
    edit: Edit | None = None,
    *,
    cfg: ModelConfig,
) -> jax.Array:
    """Log-odds of a refusing token behind left-padded prompts int32 [B, T], under an edit; float32 [B].

    is_opening: bool [V]. The same as log_odds of log_probability, its clip included, without taking [B, V] off the
    device and without rounding 1 - p.
    """
    said = log_probability(params, tokens, mask, edit, cfg=cfg)
    inside, outside = (
        jax.nn.logsumexp(jnp.where(chosen, said, -jnp.inf), axis=-1) for chosen in (is_opening, ~is_opening)
    )
    return sharding.replicate(jnp.clip(inside - outside, -LARGEST, LARGEST))


def refusal_openings(harmful: np.ndarray, harmless: np.ndarray) -> tuple[int, ...]:
    """Tokens that a model greedily opens with on harmful prompts and never on harmless ones.

    Args:
      harmful, harmless: log-probabilities [N, V] of the unedited model.
    Raises:
      InputError: it opens both alike, so that the first token shows no refusal.
    """
    found = set(harmful.argmax(axis=-1).tolist()) - set(harmless.argmax(axis=-1).tolist())
    if not found:
        raise InputError(
            "the model opens its answers to harmful and to harmless prompts with the same tokens: no "
            "refusal shows in the first token. Name refusing openings with choose.openings, or set "
            "choose.by=judge"
        )
    return tuple(sorted(found))


def log_odds(log_probabilities: ArrayLike, tokens: Sequence[int]) -> np.ndarray:
    """log p(tokens) / (1 - p(tokens)) of each row of [N, V], p clipped to 1e-9 from both ends; float64 [N]."""
    share = np.exp(np.asarray(log_probabilities, np.float64)[:, list(tokens)]).sum(axis=1).clip(LEAST, 1 - LEAST)
    return np.log(share) - np.log1p(-share)


def kl(reference: ArrayLike, other: ArrayLike) -> np.ndarray:
    """KL(reference || other) in nats of each row of two [N, V] of log-probabilities; float64 [N]."""
    reference, other = np.asarray(reference, np.float64), np.asarray(other, np.float64)
    return (np.exp(reference) * (reference - other)).sum(axis=1)


def bypass(now: float, *, start: float, end: float) -> float:
    """How far the mean log-odds of a refusing first token on harmful prompts went on their way, within [0, 1].

    start, end: the unedited model's on harmful and on harmless prompts; 0 where they leave nothing to go.
    """
    moved = (start - now) / (start - end) if start > end else 0.0
    return float(np.clip(moved, 0.0, 1.0))
