"""Directions to steer along: between two poles, within one model, random, and turned away by an angle.

docs/method.md section 3, arXiv 2606.08044. The edit itself is edits.add_at(states, deltas[:, None]) as prompt_edit and
decode_edit, with delta = fraction * activation norm * unit direction: a state per row lets one generated batch
hold many layers and fractions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from latent_audit.interventions import directions
from latent_audit.interventions.directions import Moments
from latent_audit.models.config import layer_name

# Lengths over the activation norm, for a twin's direction and for the model's own: arXiv 2606.08044.
PAPER_FRACTIONS = (0.0, 0.03, 0.06, 0.12, 0.24)
PAPER_OWN_FRACTIONS = (0.03, 0.06, 0.12)
# The cone sweep of the same paper's reference code; the text does not have it.
CONE_DEGREES = (0, 15, 30, 45, 60, 75, 90)
CONE_FRACTIONS = (0.0, 0.06, 0.12)
CONE_SEEDS = 3


class Cone(NamedTuple):
    """Directions around one: degrees int [K] and seeds int [K] of unit vectors float32 [K, D]."""

    degrees: np.ndarray
    seeds: np.ndarray
    vectors: np.ndarray


def twin_direction(harmful: Moments, base: Moments, states: Sequence[int]) -> np.ndarray:
    """Unit directions from base to its harmful pole: mean(harmful) - mean(base) on the same prompts.

    Args:
      harmful, base: directions.moments of both models, the decision point as first position; states: K state indices.
    Returns:
      float32 [K, D].
    Raises:
      InputError: the two means are equal at one of the states.
    """
    return _unit_difference(harmful, base, states)


def own_direction(benign: Moments, harmful: Moments, states: Sequence[int]) -> np.ndarray:
    """Unit directions of one model toward compliance: mean over benign minus mean over harmful prompts.

    Args, Returns and Raises as in twin_direction, with two prompt sets in place of two models. State 0 is always
    refused: the embedding of the template's last token is the same in every prompt.
    """
    return _unit_difference(benign, harmful, states)


def random_directions(key, states: Sequence[int], D: int) -> np.ndarray:
    """A uniformly random unit direction for each state; float32 [K, D].

    It depends on the key, the state's index and D alone, so that every pole is given the same.
    """
    gaussian = [np.asarray(jax.random.normal(jax.random.fold_in(key, state), (D,))) for state in states]
    return np.stack(
        [
            directions.unit(vector, name=f"noise at {layer_name(state)}")
            for state, vector in zip(states, gaussian, strict=True)
        ]
    )


def cone(direction, key, degrees: Sequence[int] = CONE_DEGREES, seeds: int = CONE_SEEDS) -> Cone:
    """Unit vectors at given angles from a direction, turned toward random orthogonal vectors.

    cos(t) * d + sin(t) * r with r a uniformly random unit vector orthogonal to d, a new one for every angle and seed.
    At 0 degrees there is no r: that direction stands there once, so 7 angles and 3 seeds are 19 directions.

    Args:
      direction: [D], of any non-zero length; key: PRNG key; degrees: angles t; seeds: how many r at each.
    Raises:
      InputError: the direction is zero.
    """
    places = [(angle, seed) for angle in degrees for seed in range(seeds if angle else 1)]
    along = directions.unit(direction, name="a cone").astype(np.float64)
    # unit() rounds to float32; at full precision again, one projection leaves nothing along it.
    along /= np.linalg.norm(along)
    vectors = []
    for angle, seed in places:
        own = jax.random.fold_in(jax.random.fold_in(key, angle), seed)
        noise = np.asarray(jax.random.normal(own, along.shape), np.float64)
        across = noise - (noise @ along) * along
        turned = np.deg2rad(float(angle))
        vectors.append(np.cos(turned) * along + np.sin(turned) * across / np.linalg.norm(across))
    angles, numbers = np.array(places, int).T
    return Cone(angles, numbers, np.array(vectors, np.float32))


def _unit_difference(of: Moments, minus: Moments, states) -> np.ndarray:
    difference = directions.mean_difference(of, minus)[:, 0]
    return np.stack([directions.unit(difference[state], name=layer_name(state)) for state in states])
