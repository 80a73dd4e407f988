"""Goals of a search: loss and gradient against the whole network, and what an adaptive search must have."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latent_audit import models
from latent_audit.interventions import edits, goals, latent, sphere, suffix
from latent_audit.models import decoder
from tests.support import tiny

TEXTS = ((5, 17, 60), (9, 2, 0))  # the second is two tokens long: its last column is padding
WEIGHTS = ((1 / 3, 1 / 3, 1 / 3), (0.5, 0.5, 0.0))
CAP = 4.0


@functools.cache
def loaded(case):
    return models.load(tiny.checkpoint(case))


def goals_of(cfg, sign, pull, *, cap=np.inf):
    directions = jax.random.normal(jax.random.key(5), (cfg.num_layers + 1, cfg.embed_dim))
    rows = (jnp.asarray(values, jnp.float32) for values in (WEIGHTS, sign, (cap, cap), pull))
    return goals.Goals(jnp.asarray(TEXTS, jnp.int32), *rows, directions)


def whole(params, cfg, tokens, mask, goal, h, state):
    """The loss of every row by the plain forward pass, with state `state` overwritten by h."""
    tokens, mask = latent.with_target(tokens, mask, goal.tokens)
    out = models.forward(params, tokens, mask, cfg=cfg, edit=edits.overwrite_at(state, h))
    n = goal.tokens.shape[1]
    log_probability = jax.nn.log_softmax(out.logits[:, -n:])
    nll = -(jnp.take_along_axis(log_probability, goal.tokens[..., None], -1)[..., 0] * goal.weights).sum(-1)
    later = jnp.arange(cfg.num_layers + 1) > jnp.minimum(state, cfg.num_layers - 1)
    along = jnp.einsum("sbd,sd->sb", out.resid[:, :, -n], goal.directions)
    return goal.sign * jnp.minimum(nll, goal.cap) + goal.pull * (along * later[:, None]).sum(0)


@pytest.mark.parametrize("case", ["llama3", "gemma2"])
@pytest.mark.parametrize("sign, pull", [((1, -1), (0, 0)), ((1, -1), (0.2, -0.7))])
def test_loss_and_gradient_are_those_of_the_whole_network(case, sign, pull):
    cfg, params = loaded(case)
    goal = goals_of(cfg, sign, pull)
    tokens, mask = tiny.rows(4, (9, 7))
    full_tokens, full_mask = latent.with_target(tokens, mask, goal.tokens)
    states = models.forward(params, full_tokens, full_mask, cfg=cfg).resid
    context = decoder.make_context(full_mask, cfg=cfg)
    ours = jax.jit(functools.partial(suffix.loss_and_gradient, cfg=cfg))
    alone = jax.jit(functools.partial(suffix.loss, cfg=cfg))
    plain = jax.jit(jax.grad(lambda h, state: whole(params, cfg, tokens, mask, goal, h, state).sum()))
    clean = latent.clean_pass(params, tokens, mask, goal, cfg=cfg)
    for state in range(cfg.num_layers + 1):
        loss, gradient = ours(params, states[state], state, context, goal)
        expected = plain(states[state], state)
        np.testing.assert_allclose(loss, whole(params, cfg, tokens, mask, goal, states[state], state), rtol=1e-4)
        np.testing.assert_allclose(alone(params, states[state], state, context, goal), loss, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gradient, expected, atol=3e-5 * np.abs(expected).max())
        prompt = expected[:, : tokens.shape[1]]
        np.testing.assert_allclose(clean.gradient[state], prompt, atol=3e-5 * np.abs(prompt).max())


def test_moving_away_from_a_text_stops_at_the_cap():
    cfg, params = loaded("llama3")
    tokens, mask = tiny.rows(4, (9, 7))
    open_goal, capped = (goals_of(cfg, (-1, -1), (0, 0), cap=cap) for cap in (np.inf, 0.0))
    assert (np.abs(latent.clean_pass(params, tokens, mask, open_goal, cfg=cfg).gradient).max((0, 2, 3)) > 0).all()
    assert not np.asarray(latent.clean_pass(params, tokens, mask, capped, cfg=cfg).gradient).any()


def test_towards_is_the_fixed_text_of_every_row():
    cfg, params = loaded("llama3")
    tokens, mask = tiny.rows(4, (9, 7))
    text = jnp.asarray(TEXTS[0], jnp.int32)
    by_rows = goals.Goals(*goals.towards(text, 2)[:5], directions=jnp.zeros((cfg.num_layers + 1, cfg.embed_dim)))
    plain = latent.clean_pass(params, tokens, mask, text, cfg=cfg)
    rowed = latent.clean_pass(params, tokens, mask, by_rows, cfg=cfg)
    np.testing.assert_allclose(plain.nll, rowed.nll, rtol=1e-6)
    # Two programs of the same arithmetic, whose sums may be taken in another order.
    np.testing.assert_allclose(plain.gradient, rowed.gradient, atol=1e-5 * np.abs(plain.gradient).max())


def test_the_best_iterate_is_the_lowest_of_the_trace_and_stays_in_the_ball():
    """A step as long as the ball overshoots, so that the last iterate is not the best one."""
    cfg, params = loaded("llama3")
    tokens, mask = tiny.rows(4, (9, 7))
    goal = goals_of(cfg, (1, 1), (0, 0))
    search = latent.Search(steps=12, step_fraction=2.0, controls=False, keep="best")
    clean = latent.clean_pass(params, tokens, mask, goal, cfg=cfg, search=search)
    budgets = jnp.asarray([[0.5, 0.5], [0.2, 0.2]])
    keys = latent.row_keys(jax.random.key(0), np.arange(2, dtype=np.uint32), 1, budgets[0])
    starts = jnp.asarray([False, True])
    found = latent.attack_state(params, clean, mask, goal, 1, budgets, keys, starts, cfg=cfg, search=search)
    last = latent.attack_state(
        params, clean, mask, goal, 1, budgets, keys, starts, cfg=cfg, search=latent.Search(12, controls=False)
    )
    full_tokens, full_mask = latent.with_target(tokens, mask, goal.tokens)
    context, h = decoder.make_context(full_mask, cfg=cfg), np.asarray(clean.states[1])
    for start in range(2):
        delta = np.asarray(found.delta[0, :, start])
        assert (np.abs(delta).max((1, 2)) <= np.asarray(found.radius[:, start]) * (1 + 1e-6)).all()
        moved = h + np.pad(delta, [(0, 0), (0, 2), (0, 0)])
        np.testing.assert_allclose(
            suffix.loss(params, moved, 1, context, goal, cfg=cfg), found.nll_last[0, :, start], rtol=1e-4
        )
        assert (found.nll_last[0, :, start] <= found.nll_trace[1:, :, start].min(0) + 1e-6).all()
    np.testing.assert_allclose(found.radius, clean.scale[1][:, None] * budgets, rtol=1e-6)
    assert (np.asarray(found.delta[0, :, 0]) != np.asarray(found.delta[0, :, 1])).any()
    assert np.isfinite(np.asarray(last.nll_last)).all()


def test_the_best_vector_of_a_sphere_is_never_worse_than_the_last():
    cfg, params = loaded("llama3")
    tokens, mask = tiny.rows(4, (9, 7))
    goal = goals_of(cfg, (1, -1), (0.1, 0))
    radius = jnp.full((2, 2), 3.0)
    keys = latent.row_keys(jax.random.key(0), np.arange(2, dtype=np.uint32), 2, jnp.asarray([0.1, 0.2]))
    run = functools.partial(sphere.sphere_attack, params, tokens, mask, goal, 2, radius, keys, cfg=cfg)
    best, last = (run(search=sphere.Search(steps=8, step_fraction=3.0, keep=keep)) for keep in ("best", "last"))
    assert (np.asarray(best.nll_last) <= np.asarray(last.nll_last) + 1e-6).all()
    assert (np.linalg.norm(best.delta, axis=-1) <= 3.0 * (1 + 1e-5)).all()


def test_one_compile_serves_all_states_budgets_and_goals():
    cfg, params = loaded("llama2")
    tokens, mask = tiny.rows(6, (7, 7))
    search = latent.Search(steps=2, controls=False, keep="best")
    before = latent.attack_state._cache_size()
    for state in range(cfg.num_layers + 1):
        for sign, pull, budget in (((1, 1), (0, 0), 0.1), ((-1, 0), (0, 1), 0.3)):
            goal = goals_of(cfg, sign, pull, cap=CAP)
            clean = latent.clean_pass(params, tokens, mask, goal, cfg=cfg, search=search)
            budgets = jnp.full((2, 1), budget)
            keys = latent.row_keys(jax.random.key(0), np.arange(2, dtype=np.uint32), state, budgets[0])
            latent.attack_state(params, clean, mask, goal, state, budgets, keys, cfg=cfg, search=search)
    assert latent.attack_state._cache_size() == before + 1
