"""Mean states and directions against transformers' hidden states and numpy."""

import functools

import jax
import numpy as np
import pytest

from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.interventions import directions, edits
from tests.support import tiny

LENGTHS = (9, 6, 8, 7, 5)
POSITIONS = (-1, -3)


@functools.cache
def loaded(case):
    return models.load(tiny.checkpoint(case))


@pytest.mark.parametrize("case", ["llama3", "qwen3", "gemma3"])
def test_moments_equal_the_means_of_transformers_states(case):
    cfg, params = loaded(case)
    tokens, mask = tiny.rows(1, LENGTHS)
    found = directions.moments(params, tokens, mask, cfg=cfg, positions=POSITIONS, batch=2)
    states = [tiny.reference(tiny.model(case), row[real]).states for row, real in zip(tokens, mask, strict=True)]
    picked = np.array([[[state[position] for position in POSITIONS] for state in row] for row in states])
    assert found.mean.shape == (cfg.num_layers + 1, 2, cfg.embed_dim) and found.count == len(LENGTHS)
    np.testing.assert_allclose(found.mean, picked.mean(axis=0), atol=2e-5)
    np.testing.assert_allclose(found.norm, np.linalg.norm(picked, axis=-1).mean(axis=0), rtol=1e-5)


def test_batch_size_does_not_matter_and_every_prompt_counts_once():
    cfg, params = loaded("llama3")
    tokens, mask = tiny.rows(2, LENGTHS)
    whole = directions.moments(params, tokens, mask, cfg=cfg, batch=len(LENGTHS))
    for batch in (1, 2, 3, 64):
        streamed = directions.moments(params, tokens, mask, cfg=cfg, batch=batch)
        np.testing.assert_allclose(streamed.mean, whole.mean, atol=1e-5)
        np.testing.assert_allclose(streamed.norm, whole.norm, rtol=1e-5)
    resid = np.asarray(models.forward(params, tokens, mask, cfg=cfg).resid)
    np.testing.assert_allclose(whole.mean[:, 0], resid[:, :, -1].mean(axis=1), atol=1e-5)


@pytest.mark.parametrize("batch", [2, 5, 8])
def test_decision_states_are_the_last_columns_of_every_prompt_once_and_in_order(batch):
    cfg, params = loaded("llama3")
    tokens, mask = tiny.rows(2, LENGTHS)
    delta = np.linspace(-1, 1, cfg.embed_dim, dtype=np.float32)
    resid = np.asarray(models.forward(params, tokens, mask, cfg=cfg).resid)[:, :, -1].swapaxes(0, 1)
    parts = list(directions.decision_states(params, tokens, mask, cfg=cfg, batch=batch))
    assert [len(part) for part in parts] == [min(batch, 5 - start) for start in range(0, 5, batch)]
    np.testing.assert_allclose(np.concatenate(parts), resid, atol=1e-5)
    edit = edits.add_at(2, delta)
    moved = np.concatenate([*directions.decision_states(params, tokens, mask, cfg=cfg, batch=batch, edit=edit)])
    np.testing.assert_allclose(moved[:, 2], resid[:, 2] + delta, atol=1e-5)


def test_batches_have_one_shape_and_say_which_rows_are_real():
    found = [(rows.tolist(), real) for rows, real in directions.batches_of(5, 3)]
    assert found == [([0, 1, 2], 3), ([3, 4, 4], 2)]
    assert [(rows.tolist(), real) for rows, real in directions.batches_of(3, 10000)] == [([0, 1, 2, 2], 3)]
    assert not [*directions.batches_of(0, 4)]


def test_features_of_texts_are_the_means_of_the_states_side_by_side():
    cfg, params = loaded("llama3")
    tokens, mask = tiny.rows(2, LENGTHS)
    resid = np.asarray(models.forward(params, tokens, mask, cfg=cfg).resid)
    expected = [np.concatenate([resid[s, row, real].mean(axis=0) for s in (3, 1)]) for row, real in enumerate(mask)]
    found = directions.text_features(params, tokens, mask, cfg=cfg, states=(3, 1), batch=2)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_only_the_wanted_columns_leave_the_forward_pass():
    cfg = models.check(tiny.checkpoint("gemma2")).cfg
    shapes = jax.eval_shape(lambda: models.init_params(jax.random.key(0), cfg))
    tokens = jax.ShapeDtypeStruct((3, 50), np.int32)
    closed = jax.make_jaxpr(functools.partial(directions.position_states, cfg=cfg, positions=(-1,)))(
        shapes, tokens, jax.ShapeDtypeStruct((3, 50), bool)
    )
    # The scan over blocks is inside; what it stacks must be columns, never whole states.
    scans = [eqn for eqn in closed.jaxpr.eqns[0].params["jaxpr"].jaxpr.eqns if eqn.primitive.name == "scan"]
    stacked = [out.aval.shape for eqn in scans for out in eqn.outvars[eqn.params["num_carry"] :]]
    assert stacked == [(cfg.num_layers, 3, 1, cfg.embed_dim)]
    assert closed.out_avals[0].shape == (cfg.num_layers + 1, 3, 1, cfg.embed_dim)


def test_the_whole_prompt_is_the_mean_over_its_tokens():
    cfg, params = loaded("llama3")
    tokens, mask = tiny.rows(2, LENGTHS)
    resid = np.asarray(models.forward(params, tokens, mask, cfg=cfg).resid)
    of_prompts = np.stack([resid[:, row, real].mean(axis=1) for row, real in enumerate(mask)], axis=1)
    found = directions.moments(params, tokens, mask, cfg=cfg, positions=(-2, directions.WHOLE_PROMPT), batch=2)
    np.testing.assert_allclose(found.mean[:, 1], of_prompts.mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(found.mean[:, 0], resid[:, :, -2].mean(axis=1), atol=1e-5)


def test_an_edit_is_seen():
    cfg, params = loaded("llama3")
    tokens, mask = tiny.rows(2, LENGTHS)
    delta = np.linspace(-1, 1, cfg.embed_dim, dtype=np.float32)
    plain, moved = (
        directions.moments(params, tokens, mask, cfg=cfg, edit=edit) for edit in (None, edits.add_at(2, delta))
    )
    np.testing.assert_allclose(moved.mean[:2], plain.mean[:2], atol=1e-6)
    np.testing.assert_allclose(directions.mean_difference(moved, plain)[2, 0], delta, atol=1e-5)
    assert np.abs(moved.mean[3] - plain.mean[3] - delta).max() > 0.01


@pytest.mark.parametrize(
    "positions, message",
    [
        ((-1, -7), "position -7 is padding in 2 of 5"),
        ((1,), "position 1 of"),
        ((-10,), "position -10 of prompts of 9 columns"),
    ],
)
def test_positions_that_not_every_prompt_has_are_refused(positions, message):
    cfg, params = loaded("llama3")
    with pytest.raises(InputError, match=message):
        directions.moments(params, *tiny.rows(1, LENGTHS), cfg=cfg, positions=positions)


def test_no_prompts_are_refused():
    cfg, params = loaded("llama3")
    tokens, mask = tiny.rows(1, LENGTHS)
    with pytest.raises(InputError, match="mean states of 0 prompts"):
        directions.moments(params, tokens[:0], mask[:0], cfg=cfg)


def test_shared_positions_are_the_common_end():
    tokens = np.array([[1, 2, 3, 8, 9], [1, 5, 4, 8, 9], [1, 6, 3, 8, 9]])
    assert directions.shared_positions(tokens, limit=5) == (-1, -2)
    assert directions.shared_positions(tokens, limit=1) == (-1,)
    assert directions.shared_positions(tokens[:1], limit=3) == (-1, -2, -3)
    assert directions.shared_positions(tokens[:, :3], limit=3) == (-1,), "at least the decision point"
    assert directions.shared_positions(tokens[:1], limit=9) == (-1, -2, -3, -4, -5)


def test_unit_and_its_error():
    np.testing.assert_allclose(directions.unit([3.0, 0, -4.0], name="L1"), [0.6, 0, -0.8], rtol=1e-6)
    with pytest.raises(InputError, match="the direction of L7 has length 0"):
        directions.unit(np.zeros(4), name="L7")
    with pytest.raises(InputError, match="nan"):
        directions.unit([1.0, float("nan")], name="L7")
