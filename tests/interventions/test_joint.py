"""The search of all states at once: its loss against the plain forward pass, its lengths, and one state alone."""

import jax
import jax.numpy as jnp
import numpy as np

from latent_audit import models
from latent_audit.interventions import edits, goals, joint, sphere
from latent_audit.models import decoder
from tests.support import tiny

TEXT = (5, 17, 60)


def attacked(length, **changes):
    cfg, params = models.load(tiny.checkpoint("llama3"))
    tokens, mask = tiny.rows(4, (9, 7))
    goal = goals.towards(jnp.asarray(TEXT), 2)
    found = joint.joint_attack(params, tokens, mask, goal, length, cfg=cfg, search=joint.Search(**changes))
    return cfg, params, tokens, mask, found


def loss_under(params, cfg, tokens, mask, delta):
    behind = np.broadcast_to(np.asarray(TEXT[:-1]), (2, 2))
    whole = np.concatenate([tokens, behind], axis=1)
    seen = np.concatenate([mask, np.ones((2, 2), bool)], axis=1)
    edit = edits.add_everywhere(np.asarray(delta).transpose(1, 0, 2))
    logits = models.forward(params, whole, seen, cfg=cfg, edit=edit).logits[:, -3:]
    log_probability = jax.nn.log_softmax(logits)
    return -np.asarray(log_probability[:, jnp.arange(3), jnp.asarray(TEXT)]).mean(-1)


def test_the_loss_is_that_of_the_pushed_network_and_the_lengths_are_kept():
    cfg, *_ = models.load(tiny.checkpoint("llama3"))
    length = np.random.default_rng(0).uniform(0.5, 2, (cfg.num_layers + 1, 2))
    cfg, params, tokens, mask, found = attacked(length, steps=6)
    np.testing.assert_allclose(loss_under(params, cfg, tokens, mask, found.delta), found.loss_last, rtol=1e-4)
    np.testing.assert_allclose(loss_under(params, cfg, tokens, mask, 0 * found.delta), found.loss_first, rtol=1e-4)
    assert (np.asarray(found.loss_last) < np.asarray(found.loss_first)).all()
    assert (np.linalg.norm(found.delta, axis=-1) <= length.T * (1 + 1e-5)).all()


def test_with_one_state_alone_it_is_the_search_of_that_state():
    cfg, *_ = models.load(tiny.checkpoint("llama3"))
    length = np.zeros((cfg.num_layers + 1, 2))
    length[1] = 1.5
    cfg, params, tokens, mask, found = attacked(length, steps=5)
    keys = jax.random.split(jax.random.key(0), 2)[:, None]
    alone = sphere.sphere_attack(
        params, tokens, mask, jnp.asarray(TEXT), 1, jnp.full((2, 1), 1.5), keys, cfg=cfg,
        search=sphere.Search(steps=5, keep="best"),
    )  # fmt: skip
    np.testing.assert_allclose(found.delta[:, 1], alone.delta[:, 0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.loss_last, alone.nll_last[:, 0], rtol=1e-4)
    others = np.delete(np.asarray(found.delta), 1, axis=1)
    assert not others.any()


def test_the_pull_of_every_state_is_in_the_loss():
    cfg, params = models.load(tiny.checkpoint("llama3"))
    tokens, mask = tiny.rows(4, (9, 7))
    directions = jax.random.normal(jax.random.key(3), (cfg.num_layers + 1, cfg.embed_dim))
    plain = goals.towards(jnp.asarray(TEXT), 2)
    goal = plain._replace(sign=jnp.zeros(2), pull=jnp.asarray([1.0, 0.5]), directions=directions)
    length = np.full((cfg.num_layers + 1, 2), 1e-6)
    found = joint.joint_attack(params, tokens, mask, goal, length, cfg=cfg, search=joint.Search(steps=1))
    behind = np.broadcast_to(np.asarray(TEXT[:-1]), (2, 2))
    whole = np.concatenate([tokens, behind], axis=1)
    seen = np.concatenate([mask, np.ones((2, 2), bool)], axis=1)
    _, at = decoder.scan_states(params, whole, seen, cfg=cfg, collect=lambda h: h[:, tokens.shape[1] - 1])
    expected = np.asarray(goal.pull) * np.einsum("sbd,sd->b", at[1:], directions[1:])
    np.testing.assert_allclose(found.loss_first, expected, rtol=1e-4)
