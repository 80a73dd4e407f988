"""Finite differences see a masked gradient, and agree with a real one."""

import jax
import jax.numpy as jnp
import numpy as np

from latent_audit import models
from latent_audit.interventions import gradient_check, latent
from tests.support import tiny

TARGET = jnp.asarray((5, 17, 60))


def cosines(params, cfg, size):
    tokens, mask = tiny.rows(3, (9, 6))
    clean = latent.clean_pass(params, tokens, mask, TARGET, cfg=cfg)
    pushes = clean.scale[1] * size
    return np.asarray(
        gradient_check.cosines(params, clean, mask, TARGET, 1, pushes, jax.random.key(0), cfg=cfg, directions=8)
    )


def test_a_smooth_network_agrees():
    cfg, params = models.load(tiny.checkpoint("llama3"))
    assert (cosines(params, cfg, 1e-3) > 0.99).all()


def test_a_saturated_softmax_is_seen():
    """Attention that picks one position by a wide margin has no gradient, and yet jumps when it is pushed."""
    cfg, params = models.load(tiny.checkpoint("llama3"))
    blocks = dict(params["blocks"])
    name = next(name for name in blocks if "query" in name and blocks[name].ndim > 2)
    blocks[name] = blocks[name] * 1e4
    assert (cosines({**params, "blocks": blocks}, cfg, 0.05) < 0.9).all()


def test_no_gradient_at_all_is_no_agreement():
    cfg, params = models.load(tiny.checkpoint("llama3"))
    dead = jax.tree.map(jnp.zeros_like, params)
    assert (cosines(dead, cfg, 1e-3) == 0).all()
