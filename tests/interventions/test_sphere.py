"""The sphere attack against a plain torch loop, its properties, and the bisection against known thresholds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.interventions import directions, edits, latent, sphere
from latent_audit.models.generate import generate
from tests.support import tiny, torch_oracle

# The last one stands for the end-of-turn token.
TARGET = (5, 17, 60, 1)
# Around the paper's .06. Far larger steps swing so far that rounding grows along the search, in torch as here.
FRACTIONS = np.array([[0.03, 0.06], [0.05, 0.1]], np.float32)
IDS = np.array([7, 8], np.uint32)
LAST = 3


@functools.cache
def loaded(case):
    return models.load(tiny.checkpoint(case))


def keys(state, ids=IDS, budgets=(0.1, 0.5)):
    return latent.row_keys(jax.random.key(1), ids, state, jnp.asarray(budgets))


@functools.cache
def radii(case, state):
    """Absolute radii [2, 2]: fractions of the activation norm."""
    cfg, params = loaded(case)
    return FRACTIONS * directions.moments(params, *tiny.rows(3, (9, 6)), cfg=cfg).norm[state]


def attack(case, state, *, params=None, radius=None, **options):
    cfg, own = loaded(case)
    return sphere.sphere_attack(
        own if params is None else params,
        *tiny.rows(3, (9, 6)),
        jnp.asarray(TARGET),
        state,
        jnp.asarray(radii(case, state) if radius is None else radius),
        keys(state),
        cfg=cfg,
        search=sphere.Search(**options),
    )


attacked = functools.cache(attack)


@functools.partial(jax.jit, static_argnames="cfg")
def whole_nll(params, tokens, mask, state, delta, *, cfg):
    """NLL of the target by one whole forward pass with delta [B, D] on every position."""
    tokens, mask = latent.with_target(tokens, mask, jnp.asarray(TARGET))
    logits = models.forward(params, tokens, mask, cfg=cfg, edit=edits.add_at(state, delta[:, None])).logits
    log_probability = jax.nn.log_softmax(logits[:, -len(TARGET) :], -1)
    return -log_probability[:, jnp.arange(len(TARGET)), jnp.asarray(TARGET)].mean(-1)


def plain_attack(model, prompt, state, radius, *, steps=16, step_fraction=0.3):
    """docs/method.md section 2, step by step, for one prompt: (delta, losses)."""
    ids = torch.cat([prompt, torch.tensor(TARGET)])
    delta = torch.zeros(model.config.hidden_size, requires_grad=True)
    handle = torch_oracle.hooked(model, state, lambda h: h + delta)
    losses = []
    for _ in range(steps):
        loss = torch_oracle.target_nll(model, ids, len(TARGET))
        (gradient,) = torch.autograd.grad(loss, delta)
        losses.append(loss.item())
        with torch.no_grad():
            moved = delta - step_fraction * radius * gradient / gradient.norm()
            delta.copy_(moved * (radius / moved.norm()))
    with torch.no_grad():
        losses.append(torch_oracle.target_nll(model, ids, len(TARGET)).item())
    handle.remove()
    return delta.detach().numpy(), losses


@pytest.mark.parametrize("case", ["llama3", "gemma2", "qwen3"])
@pytest.mark.parametrize("state", [0, 1, LAST])
def test_search_equals_a_plain_torch_loop(case, state):
    assert loaded(case)[0].num_layers == LAST
    found = attacked(case, state)
    tokens, mask = tiny.rows(3, (9, 6))
    for row, real in enumerate(mask):
        prompt = torch.tensor(tokens[row][real], dtype=torch.long)
        for index, radius in enumerate(radii(case, state)[row].tolist()):
            delta, losses = plain_attack(tiny.model(case), prompt, state, radius)
            np.testing.assert_allclose(found.nll_trace[:, row, index], losses, atol=1e-4)
            np.testing.assert_allclose(found.delta[row, index], delta, atol=1e-3 * radius)
            assert found.lowered[row, index] == (losses[-1] < losses[0])


def test_steps_and_step_fraction_are_those_of_the_search():
    found = attack("llama3", 1, steps=4, step_fraction=0.5)
    tokens, mask = tiny.rows(3, (9, 6))
    prompt, radius = torch.tensor(tokens[0][mask[0]], dtype=torch.long), radii("llama3", 1)[0, 1].item()
    _, losses = plain_attack(tiny.model("llama3"), prompt, 1, radius, steps=4, step_fraction=0.5)
    np.testing.assert_allclose(found.nll_trace[:, 0, 1], losses, atol=1e-4)


@pytest.mark.parametrize("case", ["llama3", "gemma2", "qwen3"])
def test_both_vectors_lie_on_the_sphere_and_the_search_beats_its_control(case):
    for state in (0, 1, LAST):
        found = attacked(case, state)
        for vectors in (found.delta, found.control):
            assert vectors.dtype == jnp.float32
            length = np.linalg.norm(np.asarray(vectors, np.float64), axis=-1)
            np.testing.assert_allclose(length, radii(case, state), rtol=1e-6)
        np.testing.assert_array_equal(found.nll_first, found.nll_trace[0])
        np.testing.assert_array_equal(found.nll_last, found.nll_trace[-1])
        assert np.asarray(found.lowered).all() and (found.nll_last < found.control_nll_last).all()


def test_nll_of_both_vectors_is_that_of_a_whole_forward_pass():
    cfg, params = loaded("gemma2")
    found = attacked("gemma2", 1)
    for delta, expected in (
        (found.delta, found.nll_last),
        (found.control, found.control_nll_last),
        (0 * found.delta, found.nll_first),
    ):
        nll = whole_nll(params, *tiny.rows(3, (9, 6)), 1, delta[:, 1], cfg=cfg)
        np.testing.assert_allclose(expected[:, 1], nll, atol=1e-5)


def test_generation_under_the_vector_equals_torch():
    cfg, params = loaded("llama3")
    delta = attacked("llama3", 1).delta[:, 1]
    tokens, mask = tiny.rows(3, (9, 6))
    edit = edits.add_at(1, delta[:, None])
    new = np.asarray(
        generate(params, tokens, mask, cfg=cfg, max_new_tokens=6, eos_ids=(), prompt_edit=edit, decode_edit=edit).tokens
    )
    for row, real in enumerate(mask):
        prompt, model = torch.tensor(tokens[row][real], dtype=torch.long), tiny.model("llama3")
        vector = torch.tensor(np.asarray(delta[row]))
        handle = torch_oracle.hooked(model, 1, lambda h, vector=vector: h + vector)
        expected = torch_oracle.greedy(model, prompt, 6)
        handle.remove()
        assert new[row].tolist() == expected


def wider_rows():
    """The second prompt of the others, with three more columns of padding and a longer neighbour."""
    (own, own_mask), (other, other_mask) = tiny.rows(3, (9, 6)), tiny.rows(4, (12,))
    return np.stack([np.pad(own[1], (3, 0)), other[0]]), np.stack([np.pad(own_mask[1], (3, 0)), other_mask[0]])


def test_padding_batch_and_other_budgets_do_not_matter():
    cfg, params = loaded("gemma2")
    whole, radius = attacked("gemma2", 1), radii("gemma2", 1)[1, 1]
    tokens, mask = wider_rows()
    cell = sphere.sphere_attack(
        params, tokens, mask, jnp.asarray(TARGET), 1, jnp.full((2, 1), radius), keys(1, IDS[::-1], (0.5,)), cfg=cfg
    )
    np.testing.assert_allclose(cell.control[0, 0], whole.control[1, 1], rtol=1e-6)
    np.testing.assert_allclose(cell.delta[0, 0], whole.delta[1, 1], atol=1e-3 * radius)
    np.testing.assert_allclose(cell.nll_trace[:, 0, 0], whole.nll_trace[:, 1, 1], atol=1e-4)


def test_one_compile_serves_all_states_and_budgets():
    attacked("llama3", 0)
    compiled = sphere.sphere_attack._cache_size()
    for state in range(LAST + 1):
        for scale in (0.5, 1.5):
            attack("llama3", state, radius=scale * radii("llama3", state))
    assert sphere.sphere_attack._cache_size() == compiled


def test_further_starts_are_never_worse_and_the_first_is_from_zero():
    # Wide enough a sphere to have more than one valley.
    radius = 6 * radii("gemma2", 1)
    alone, several = (attack("gemma2", 1, radius=radius, starts=starts) for starts in (1, 3))
    assert not np.asarray(alone.kept).any()
    assert (several.nll_last <= alone.nll_last + 1e-5).all()
    improved = np.asarray(several.kept) > 0
    assert improved.any(), "otherwise this test sees nothing of the other starts"
    assert (several.nll_last < alone.nll_last)[improved].all()
    np.testing.assert_allclose(several.nll_first, alone.nll_first, atol=1e-6)
    np.testing.assert_allclose(several.delta[~improved], alone.delta[~improved], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(several.delta, axis=-1), radius, rtol=1e-6)
    # Drawn from the same key by two programs: their loops may round the last digit apart.
    np.testing.assert_allclose(several.control, alone.control, rtol=4 * np.finfo(np.float32).eps)
    # The trace is of the start that was kept: it begins on the sphere, not at the clean model.
    assert (np.abs(several.nll_trace[0] - several.nll_first)[improved] > 1e-4).all()


def test_a_gradient_of_zero_moves_nothing():
    _, params = loaded("gemma2")
    # Gemma's final norm multiplies by 1 + weight: every logit is zero.
    flat = params | {"final_norm": -jnp.ones_like(params["final_norm"])}
    for starts in (1, 3):
        found = attack("gemma2", 1, params=flat, starts=starts)
        np.testing.assert_array_equal(found.delta, np.zeros_like(found.delta))
        np.testing.assert_allclose(found.nll_trace, np.log(96), rtol=1e-6)
        assert not np.asarray(found.lowered).any() and not np.asarray(found.kept).any()
        np.testing.assert_allclose(np.linalg.norm(found.control, axis=-1), radii("gemma2", 1), rtol=1e-6)


def test_a_small_gradient_is_followed():
    """Squares of this gradient are zero in float32, yet its direction is well defined."""
    _, params = loaded("llama3")
    faint = attack("llama3", 1, params=params | {"head": params["head"] * 1e-24})
    plain = attack("llama3", 1, params=params | {"head": params["head"] * 1e-4})
    np.testing.assert_allclose(np.linalg.norm(faint.delta, axis=-1), radii("llama3", 1), rtol=1e-6)
    np.testing.assert_allclose(faint.delta, plain.delta, atol=1e-2 * radii("llama3", 1).min())


def test_bfloat16_weights_keep_a_float32_vector():
    cfg, params = models.load(tiny.checkpoint("llama3"), dtype="bfloat16")
    found = attack("llama3", 1, params=params)
    assert found.delta.dtype == found.nll_trace.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(found.delta, axis=-1), radii("llama3", 1), rtol=1e-6)
    np.testing.assert_allclose(found.nll_last, attacked("llama3", 1).nll_last, atol=0.1)


def test_noise_depends_on_prompt_state_and_budget():
    vectors = np.concatenate([attacked("llama3", state).control.reshape(4, -1) for state in (0, 1)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T - np.eye(8)
    assert np.abs(cosines).max() < 0.8


@pytest.mark.parametrize("rounds", [0, 1, 5])
def test_bisection_brackets_known_thresholds(rounds):
    grid = [0.01, 0.08, 0.64]
    thresholds = np.array([0.001, 0.01, 0.0101, 0.07, 0.2, 0.64, 0.65, np.inf])
    asked = []

    def falls(budgets):
        asked.append(budgets)
        return budgets >= thresholds

    start = sphere.first_falls(grid, np.array(grid)[:, None] >= thresholds)
    found = sphere.bisect(falls, start, rounds=rounds)
    assert len(asked) == rounds and all((grid[0] <= budgets).all() and (budgets <= grid[-1]).all() for budgets in asked)
    np.testing.assert_array_equal(found.hi[:2], grid[0])
    np.testing.assert_array_equal(found.lo[:2], 0)
    np.testing.assert_array_equal(found.hi[6:], np.inf)
    np.testing.assert_array_equal(found.lo[6:], grid[-1])
    inside = slice(2, 6)
    assert (found.lo[inside] < thresholds[inside]).all() and (thresholds[inside] <= found.hi[inside]).all()
    np.testing.assert_allclose(found.hi[inside] / found.lo[inside], 8 ** (1 / 2**rounds))


def test_a_prompt_that_stands_up_again_under_a_huge_push_is_still_found():
    falls = lambda budgets: (budgets >= 0.1) & (budgets < 0.5)  # noqa: E731
    start = sphere.first_falls([0.05, 0.2, 0.8], falls(np.array([0.05, 0.2, 0.8]))[:, None])
    assert (start.lo[0], start.hi[0]) == (0.05, 0.2)
    found = sphere.bisect(falls, start, rounds=6)
    assert found.lo[0] < 0.1 <= found.hi[0] < 0.104


def test_bisection_asks_nothing_once_all_prompts_are_settled():
    start = sphere.first_falls([0.1, 1.0], [[True, False], [True, False]])
    found = sphere.bisect(lambda budgets: pytest.fail("asked"), start, rounds=9)
    assert found.lo.tolist() == [0, 1.0] and found.hi.tolist() == [0.1, np.inf]


@pytest.mark.parametrize("grid, rows", [([], 0), ([0.0, 1.0], 2), ([1.0, 0.5], 2), ([0.5, 0.5], 2), ([0.1, 1.0], 1)])
def test_a_grid_that_is_none_is_refused(grid, rows):
    with pytest.raises(InputError, match="break budgets on the grid"):
        sphere.first_falls(grid, np.zeros((rows, 3), bool))


def test_negative_rounds_are_refused():
    with pytest.raises(InputError, match="rounds = -1"):
        sphere.bisect(lambda budgets: budgets > 0.5, sphere.Brackets(np.ones(1), np.ones(1)), rounds=-1)
