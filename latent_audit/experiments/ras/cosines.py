"""Decision-point states of block outputs, and what RAS keeps of them: means of the reference, cosines of every model.

docs/method.md section 10, steps 1 to 3. Means and cosines are streamed, so that the number of prompts costs no memory.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from latent_audit.data import chats
from latent_audit.experiments import respond
from latent_audit.interventions import directions
from latent_audit.metrics import safevec


class Directions(NamedTuple):
    """What every model of a family is compared with; float64.

    refusal: [L, D], unit; centre: [L, D], mean of the reference's two means, of the mean-centred control; random:
    [K, L, D], unit, of the random control.
    """

    refusal: np.ndarray
    centre: np.ndarray
    random: np.ndarray


class Cosines(NamedTuple):
    """Of one prompt set of one model: refusal and centred float64 [N, L], random float64 [K, L] (prompt means)."""

    refusal: np.ndarray
    centred: np.ndarray
    random: np.ndarray


def block_states(loaded: respond.Loaded, tokens: chats.Tokens, batch: int) -> Iterator[np.ndarray]:
    """Output of every block at the decision point, of `batch` prompts at a time; float32 [up to batch, L, D]."""
    for states in directions.decision_states(loaded.params, *tokens, cfg=loaded.cfg, batch=batch):
        yield states[:, 1:]


def mean_states(loaded: respond.Loaded, tokens: chats.Tokens, batch: int) -> np.ndarray:
    """Mean of block_states over any number of prompts; float64 [L, D], summed in float64."""
    total = sum(states.sum(axis=0, dtype=np.float64) for states in block_states(loaded, tokens, batch))
    return total / len(tokens.tokens)


def fit(
    loaded: respond.Loaded,
    safe: chats.Tokens,
    unsafe: chats.Tokens,
    *,
    batch: int,
    layers=None,
    random: int = 0,
    refusal: np.ndarray | None = None,
) -> Directions:
    """The directions of a reference from its safe and unsafe prompts, and its controls.

    Args:
      layers: those that must have a direction, see safevec.directions_from_means; random: K; refusal: directions
        [L, D] that take the place of those of the means.
    """
    mean_safe, mean_unsafe = (mean_states(loaded, tokens, batch) for tokens in (safe, unsafe))
    if refusal is None:
        refusal = safevec.directions_from_means(mean_unsafe, mean_safe, layers=layers)
    drawn = [safevec.random_directions(seed, *refusal.shape) for seed in range(random)]
    return Directions(refusal, (mean_safe + mean_unsafe) / 2, np.array(drawn).reshape(random, *refusal.shape))


def read(loaded: respond.Loaded, tokens: chats.Tokens, known: Directions, *, batch: int) -> Cosines:
    """Cosines of a model's states with a reference's directions: forward passes, no generation."""
    refusal, centred, random, count = [], [], 0.0, 0
    for states in block_states(loaded, tokens, batch):
        refusal.append(safevec.cosines(states, known.refusal))
        centred.append(safevec.centred_cosines(states, known.refusal, known.centre))
        random = random + np.array([safevec.cosines(states, drawn).sum(axis=0) for drawn in known.random])
        count += len(states)
    none = np.zeros((0, known.refusal.shape[0]))
    return Cosines(np.concatenate(refusal), np.concatenate(centred), random / count if len(known.random) else none)


def read_refusal(loaded: respond.Loaded, tokens: chats.Tokens, refusal, *, batch: int) -> np.ndarray:
    """read without the controls, float64 [N, L]: all that a frozen calibration asks of a target."""
    return np.concatenate([safevec.cosines(states, refusal) for states in block_states(loaded, tokens, batch)])
