"""The gated delta rule: its chunks against the plain recurrence, and both against transformers' own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.qwen3_5 import modeling_qwen3_5

from latent_audit.models.kinds import delta_rule

B, T, N, K, V = 2, 11, 3, 4, 5


def columns(starts):
    rng = np.random.default_rng(0)
    query, key = rng.standard_normal((2, B, T, N, K), np.float32)
    key /= np.linalg.norm(key, axis=-1, keepdims=True)
    value = rng.standard_normal((B, T, N, V), np.float32)
    # From hardly anything forgotten to nearly all, and corrections from small to whole.
    decay = -np.exp(rng.uniform(-5, 1.5, (B, T, N)).astype(np.float32))
    beta = rng.uniform(0.05, 1, (B, T, N)).astype(np.float32)
    return delta_rule.Columns(query, key, value, decay, beta, np.asarray(starts, np.int32))


WHOLE = np.zeros((B, T))
PADDED = np.array([[0] * T, [4] * T])
# Three texts in the first row; the second goes on from what is remembered for two columns.
PACKED = np.array([[0, 0, 0, 3, 3, 3, 3, 3, 8, 8, 8], [-5, -5, 2, 2, 2, 5, 5, 5, 5, 5, 5]])
BEFORE = np.random.default_rng(1).standard_normal((B, N, K, V)).astype(np.float32)


@pytest.mark.parametrize("starts", [WHOLE, PADDED, PACKED], ids=["whole", "padded", "packed"])
@pytest.mark.parametrize("chunk", [4, 11])
def test_chunks_equal_the_recurrence(starts, chunk):
    given, real = columns(starts), (starts <= np.arange(T))[..., None, None]

    def weighed(rule, given, matrices):
        out, after = rule(given, matrices)
        return (out * jnp.where(real, jnp.cos(jnp.arange(V)), 0)).sum() + (after * jnp.sin(after)).sum(), (out, after)

    def run(rule):
        moved = jax.value_and_grad(functools.partial(weighed, rule), argnums=(0, 1), has_aux=True, allow_int=True)
        (_, (out, after)), gradient = jax.jit(moved)(given, BEFORE)
        return jnp.where(real, out, 0), after, *gradient[0][:-1], gradient[1]

    for ours, plain in zip(
        run(functools.partial(delta_rule.chunked, chunk=chunk)), run(delta_rule.recurrent), strict=True
    ):
        np.testing.assert_allclose(ours, plain, atol=2e-5 * max(1, np.abs(plain).max()))


@pytest.mark.parametrize("rule", [delta_rule.recurrent, delta_rule.chunked])
def test_the_rule_equals_that_of_transformers(rule):
    given = columns(np.full((B, T), -1))
    out, after = rule(given, jnp.asarray(BEFORE))
    query, key, value, decay, beta = (torch.tensor(np.array(array)) for array in given[:-1])
    theirs, their_after = modeling_qwen3_5.torch_recurrent_gated_delta_rule(
        query * K**0.5, key, value, g=decay, beta=beta, initial_state=torch.tensor(BEFORE), output_final_state=True
    )
    np.testing.assert_allclose(out, theirs, atol=2e-5)
    np.testing.assert_allclose(after, their_after, atol=2e-5)


def test_a_text_leaves_nothing_to_the_next_one_in_its_row():
    given = columns(PACKED)
    out, _ = delta_rule.chunked(given, jnp.asarray(BEFORE), chunk=4)
    alone = delta_rule.Columns(*(array[:1, 3:8] for array in given[:-1]), jnp.zeros((1, 5), jnp.int32))
    expected, _ = delta_rule.recurrent(alone, jnp.zeros((1, N, K, V)))
    np.testing.assert_allclose(out[:1, 3:8], expected, atol=1e-5)
