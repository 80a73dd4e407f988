"""Steering directions against closed forms in numpy."""

import functools

import jax
import numpy as np
import pytest

from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.interventions import directions, steering
from latent_audit.interventions.directions import Moments
from tests.support import tiny

S, D = 5, 48


def moments(seed):
    mean = np.random.default_rng(seed).normal(size=(S, 2, D)).astype(np.float32)
    return Moments(mean, np.linalg.norm(mean, axis=-1), 3)


def test_twin_direction_points_from_base_to_harmful():
    harmful, base = moments(0), moments(1)
    found = steering.twin_direction(harmful, base, (4, 1))
    difference = (harmful.mean - base.mean)[[4, 1], 0]
    np.testing.assert_allclose(found, difference / np.linalg.norm(difference, axis=1, keepdims=True), atol=1e-6)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(steering.twin_direction(base, harmful, (4, 1)), -found)


def test_own_direction_points_from_harmful_to_benign():
    benign, harmful = moments(0), moments(1)
    found = steering.own_direction(benign, harmful, range(S))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    # Projected on it, benign prompts lie higher than harmful ones, by the whole distance between the means.
    apart = np.einsum("sd,sd->s", found, (benign.mean - harmful.mean)[:, 0])
    np.testing.assert_allclose(apart, np.linalg.norm((benign.mean - harmful.mean)[:, 0], axis=1), rtol=1e-5)


def test_states_that_do_not_differ_are_refused_by_name():
    """At the embedding, prompts that end in one token have one state at the decision point, whatever came before."""
    cfg, params = models.load(tiny.checkpoint("llama3"))
    (benign, mask), (harmful, _) = tiny.rows(1, (7, 5)), tiny.rows(2, (7, 5))
    benign[:, -1] = harmful[:, -1] = 9
    sets = [directions.moments(params, tokens, mask, cfg=cfg) for tokens in (benign, harmful)]
    assert steering.own_direction(*sets, (1, 3)).shape == (2, cfg.embed_dim)
    with pytest.raises(InputError, match="the direction of embedding has length 0"):
        steering.own_direction(*sets, (1, 0))
    with pytest.raises(InputError, match="the direction of L2 has length 0"):
        steering.twin_direction(sets[0], sets[0], (3,))


def test_random_directions_depend_on_key_and_state_alone():
    draw = functools.partial(steering.random_directions, jax.random.key(3))
    found = draw((0, 2, 4), D)
    assert found.shape == (3, D) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(draw((4, 0), D), found[[2, 0]])
    np.testing.assert_array_equal(draw((0, 2, 4), D), found)
    other = steering.random_directions(jax.random.key(4), (0, 2, 4), D)
    cosines = np.concatenate([found, other]) @ np.concatenate([found, other]).T - np.eye(6)
    assert np.abs(cosines).max() < 0.7


def test_random_directions_are_isotropic():
    found = steering.random_directions(jax.random.key(0), range(400), 8)
    np.testing.assert_allclose(found.T @ found / 400, np.eye(8) / 8, atol=0.04)
    assert np.abs(found.mean(axis=0)).max() < 5 * (8 * 400) ** -0.5


@pytest.mark.parametrize("scale", [1.0, 37.0])
def test_cone_vectors_stand_at_their_angles(scale):
    direction = scale * moments(0).mean[2, 0]
    unit = direction / np.linalg.norm(direction)
    found = steering.cone(direction, jax.random.key(5))
    # One direction at 0 degrees, where there is nothing to turn towards, and three at each of six angles.
    expected = [(0, 0), *((angle, seed) for angle in (15, 30, 45, 60, 75, 90) for seed in range(3))]
    assert list(zip(found.degrees.tolist(), found.seeds.tolist(), strict=True)) == expected
    assert found.vectors.shape == (19, D) and found.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(found.vectors @ unit, np.cos(np.deg2rad(found.degrees)), atol=1e-6)
    np.testing.assert_allclose(found.vectors[0], unit, atol=1e-6)


def test_every_angle_and_seed_turns_towards_another_orthogonal_vector():
    direction = moments(0).mean[2, 0]
    unit = direction / np.linalg.norm(direction)
    found = steering.cone(direction, jax.random.key(5))
    turned = found.vectors[1:] - (found.vectors[1:] @ unit)[:, None] * unit
    across = turned / np.linalg.norm(turned, axis=1, keepdims=True)
    np.testing.assert_allclose(across @ unit, 0, atol=1e-5)
    # 18 random directions in 47 dimensions: cosines of pairs are about 1/7, none is near 1.
    assert np.abs(across @ across.T - np.eye(18)).max() < 0.7
    again = steering.cone(direction, jax.random.key(5), (30,), seeds=1)
    np.testing.assert_array_equal(again.vectors[0], found.vectors[4])
    assert (steering.cone(direction, jax.random.key(6), (30,)).vectors != found.vectors[4:7]).any(axis=1).all()
    with pytest.raises(InputError, match="a cone has length 0"):
        steering.cone(np.zeros(D), jax.random.key(0))
