"""A target of its own for every prompt of a batch, of different lengths: as if each were searched for alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from latent_audit import models
from latent_audit.interventions import gcg, goals, latent, sphere
from tests.support import tiny

LONG, SHORT = (5, 17, 60, 1), (9, 2)


def test_the_l2_attack_of_each_row_is_that_of_its_target_alone():
    cfg, params = models.load(tiny.checkpoint("llama3"))
    tokens, mask = tiny.rows(3, (9, 6))
    budgets = jnp.full((2, 1), 0.5, jnp.float32)
    keys = latent.row_keys(jax.random.key(1), np.array([7, 8], np.uint32), 1, budgets[0])

    def attack(goal):
        search = sphere.Search(steps=3)
        return sphere.sphere_attack(params, tokens, mask, goal, 1, budgets, keys, cfg=cfg, search=search)

    together = attack(goals.take(goals.towards_each([SHORT, LONG, SHORT]), [1, 2]))
    # Of one width with the padded ones, the first shares their program.
    alone = (attack(goals.towards_each([LONG, LONG])), attack(jnp.asarray(SHORT)))
    for row, of_target in enumerate(alone):
        for name in ("delta", "nll_first", "nll_last"):
            np.testing.assert_allclose(
                getattr(together, name)[row], getattr(of_target, name)[row], rtol=2e-4, atol=1e-5
            )


def test_the_suffix_search_of_each_row_reads_its_target_alone():
    cfg, params = models.load(tiny.checkpoint("llama3"))
    tokens, mask = tiny.rows(4, (16, 12))
    first, length = 9, 4
    suffix = tokens[:, first : first + length]
    gradient = jax.jit(functools.partial(gcg.token_gradient, cfg=cfg))

    def around(target):
        return gcg.prepare(params, tokens, mask, jnp.asarray(target), cfg=cfg, first=first, length=length)

    padded = around([LONG, (*SHORT, gcg.NO_TOKEN, gcg.NO_TOKEN)])
    together = gradient(params, padded, suffix)
    losses = gcg.candidate_losses(params, padded, suffix[:, None], np.ones(2, bool), cfg=cfg, batch=1)
    np.testing.assert_allclose(losses[:, 0], together.nll, rtol=1e-5)
    for row, target in enumerate(([LONG, LONG], SHORT)):
        alone = gradient(params, around(target), suffix)
        np.testing.assert_allclose(together.nll[row], alone.nll[row], rtol=1e-5)
        exact = np.asarray(alone.gradient[row])
        np.testing.assert_allclose(together.gradient[row], exact, rtol=1e-4, atol=1e-5 * np.abs(exact).max())
        assert bool(together.on_target[row]) == bool(alone.on_target[row])
