"""Generation against transformers.generate and against one forward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from latent_audit import models
from latent_audit.interventions import edits
from latent_audit.models import continuing, decode
from latent_audit.models import generate as generation
from latent_audit.models.generate import Sampling, generate
from tests.support import tiny

NEW = 9
NEW_FAMILIES = (
    "olmo3",
    "smollm3",
    "phi3",
    "phi3_partial",
    "granite",
    "granite4",
    "ministral3",
    "qwen3_moe_window",
    "mixtral",
    "qwen3_5_moe",
    "gpt_oss",
)


forward = jax.jit(models.forward, static_argnames="cfg")


@functools.cache
def loaded(case):
    return models.load(tiny.checkpoint(case))


def reference_tokens(case, tokens, mask, **options):
    out = tiny.model(case).generate(
        input_ids=torch.tensor(tokens, dtype=torch.long),
        attention_mask=torch.tensor(mask, dtype=torch.long),
        max_new_tokens=NEW,
        min_new_tokens=None,
        do_sample=False,
        pad_token_id=0,
        **options,
    )
    out = out[:, tokens.shape[1] :].numpy()
    return np.pad(out, [(0, 0), (0, NEW - out.shape[1])])


@pytest.mark.parametrize(
    "case",
    ["llama3", "mistral", "qwen2_window", "qwen3", "gemma", "gemma2", "gemma3", *NEW_FAMILIES, "qwen3_5", "gemma4"]
    + ["gemma4_e2b", "gemma4_moe"],
)
def test_greedy_equals_transformers(case):
    cfg, params = loaded(case)
    tokens, mask = tiny.rows(11, (12, 8, 5))
    new = generate(params, tokens, mask, cfg=cfg, max_new_tokens=NEW, eos_ids=())
    expected = reference_tokens(case, tokens, mask, eos_token_id=None)
    np.testing.assert_array_equal(new.tokens, expected)
    assert (np.asarray(new.lengths) == NEW).all()


def test_several_end_tokens_and_padding_after_them():
    cfg, params = loaded("llama3")
    tokens, mask = tiny.rows(11, (12, 8, 5))
    free = np.asarray(generate(params, tokens, mask, cfg=cfg, max_new_tokens=NEW, eos_ids=()).tokens)
    ends = (int(free[0, 2]), int(free[1, 4]))
    new = generate(params, tokens, mask, cfg=cfg, max_new_tokens=NEW, eos_ids=ends)
    np.testing.assert_array_equal(new.tokens, reference_tokens("llama3", tokens, mask, eos_token_id=list(ends)))
    for row in range(3):
        hits = np.flatnonzero(np.isin(free[row], ends))
        length = hits[0] + 1 if len(hits) else NEW
        assert new.lengths[row] == length
        np.testing.assert_array_equal(new.tokens[row, :length], free[row, :length])
        assert not np.asarray(new.tokens[row, length:]).any()


def test_repetition_penalty_equals_transformers():
    cfg, params = loaded("qwen2")
    for row in range(2):
        # One row at a time: transformers penalises its padding too.
        tokens, mask = tiny.rows(row, (7,))
        new = generate(params, tokens, mask, cfg=cfg, max_new_tokens=NEW, eos_ids=(), repetition_penalty=1.7)
        expected = reference_tokens("qwen2", tokens, mask, eos_token_id=None, repetition_penalty=1.7)
        np.testing.assert_array_equal(new.tokens, expected)
    plain = generate(params, tokens, mask, cfg=cfg, max_new_tokens=NEW, eos_ids=())
    assert (np.asarray(plain.tokens) != np.asarray(new.tokens)).any()


@pytest.mark.parametrize(
    "case", ["mistral", "gemma3", "olmo3", "smollm3_window", "granite", "ministral3", "qwen3_5", "gemma4"]
)
def test_prefill_and_decode_equal_one_forward(case):
    cfg, params = loaded(case)
    tokens, mask = tiny.rows(2, (14, 9))
    P = 8
    x, cache = jax.jit(functools.partial(decode.prefill, cfg=cfg, room=6))(params, tokens[:, :P], mask[:, :P])
    step = jax.jit(functools.partial(decode.step, cfg=cfg))
    resid = forward(params, tokens, mask, cfg=cfg).resid[-1]
    np.testing.assert_allclose(x, resid[:, P - 1], atol=2e-5)
    for slot in range(P, 14):
        x, cache = step(params, tokens[:, slot], slot, cache)
        np.testing.assert_allclose(x, resid[:, slot], atol=2e-5)


def test_edits_act_where_they_are_told():
    cfg, params = loaded("llama3")
    tokens, mask = tiny.rows(9, (6, 4))
    P = tokens.shape[1]
    delta = jax.random.normal(jax.random.key(0), (2, 1, cfg.embed_dim))
    state = jnp.array([1, 3])
    add = edits.add_at(state, delta)
    for prompt_edit, decode_edit in ((add, None), (None, add), (add, add)):
        new = np.asarray(
            generate(
                params,
                tokens,
                mask,
                cfg=cfg,
                max_new_tokens=5,
                eos_ids=(),
                prompt_edit=prompt_edit,
                decode_edit=decode_edit,
            ).tokens
        )
        ids = np.concatenate([tokens, new], 1)
        real = np.pad(mask, [(0, 0), (0, 5)], constant_values=True)
        where = np.zeros((1, P + 5, 1), np.float32)
        where[:, :P] = prompt_edit is not None
        where[:, P:] = decode_edit is not None
        logits = forward(params, ids, real, cfg=cfg, edit=edits.add_at(state, delta * where)).logits
        np.testing.assert_array_equal(new, logits[:, P - 1 : -1].argmax(-1))


def test_identity_edits_change_no_bit():
    cfg, params = loaded("gemma2")
    tokens, mask = tiny.rows(9, (6, 4))
    plain = forward(params, tokens, mask, cfg=cfg)
    for edit in (
        edits.add_at(2, jnp.zeros(cfg.embed_dim)),
        edits.overwrite_at(1, plain.resid[1]),
        edits.add_at(99, jnp.ones(cfg.embed_dim)),
    ):
        np.testing.assert_array_equal(forward(params, tokens, mask, cfg=cfg, edit=edit).logits, plain.logits)


def test_edit_changes_only_later_states_and_columns():
    cfg, params = loaded("llama3")
    tokens, mask = tiny.rows(9, (10,))
    plain = forward(params, tokens, mask, cfg=cfg).resid
    delta = jnp.zeros((1, 10, cfg.embed_dim)).at[0, 6].set(1.0)
    moved = forward(params, tokens, mask, cfg=cfg, edit=edits.add_at(2, delta)).resid
    changed = np.abs(moved - plain).max(-1)[:, 0] > 0
    assert not changed[:2].any() and not changed[:, :6].any()
    assert changed[2].tolist() == [column == 6 for column in range(10)] and changed[3, 6:].all()


def test_project_out_and_compose():
    cfg, params = loaded("llama3")
    tokens, mask = tiny.rows(9, (6, 4))
    direction = jax.random.normal(jax.random.key(1), (cfg.embed_dim,))
    resid = forward(params, tokens, mask, cfg=cfg, edit=edits.project_out(3 * direction)).resid
    along = jnp.abs(resid @ (direction / jnp.linalg.norm(direction)))
    assert along.max() < 1e-4 * jnp.abs(resid).max()
    both = edits.compose(edits.project_out(direction), edits.add_at(1, direction))
    h = jnp.ones((1, 2, cfg.embed_dim))
    np.testing.assert_allclose(both(h, 1), edits.project_out(direction)(h, 1) + direction, atol=1e-5)


def test_sampling_follows_the_truncated_distribution():
    cfg, params = loaded("llama3")
    tokens, mask = (np.repeat(array, 3000, 0) for array in tiny.rows(1, (5,)))
    sampling = Sampling(jax.random.key(0), temperature=1.5, top_p=0.6)
    drawn = np.asarray(generate(params, tokens, mask, cfg=cfg, max_new_tokens=1, eos_ids=(), sampling=sampling).tokens)[
        :, 0
    ]
    logits = np.asarray(forward(params, tokens[:1], mask[:1], cfg=cfg).logits)[0, -1] / 1.5
    order = np.argsort(-logits)
    probability = np.exp(logits - logits.max())
    probability /= probability.sum()
    kept = order[np.cumsum(probability[order]) - probability[order] < 0.6]
    assert set(drawn) <= set(kept.tolist())
    expected = probability[kept] / probability[kept].sum()
    observed = np.array([(drawn == token).mean() for token in kept])
    np.testing.assert_allclose(observed, expected, atol=5 * np.sqrt(0.25 / 3000))
    again = generate(params, tokens, mask, cfg=cfg, max_new_tokens=1, eos_ids=(), sampling=sampling).tokens[:, 0]
    np.testing.assert_array_equal(again, drawn)


def test_a_key_for_every_row_makes_what_is_drawn_free_of_the_batch():
    cfg, params = loaded("llama3")
    tokens, mask = (np.repeat(array, 6, 0) for array in tiny.rows(1, (5,)))
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(3), row))(np.arange(6))

    def draw(rows):
        sampling = Sampling(keys[rows], temperature=2.0)
        options = {"cfg": cfg, "max_new_tokens": 4, "eos_ids": (), "sampling": sampling}
        return np.asarray(generate(params, tokens[rows], mask[rows], **options).tokens)

    whole = draw(np.arange(6))
    order = np.array([4, 1, 1, 5, 0, 2])
    np.testing.assert_array_equal(draw(order), whole[order])
    assert len(np.unique(whole, axis=0)) > 1, "rows of one prompt are drawn apart"


def test_generation_compiles_once_for_all_states():
    cfg, params = loaded("llama2")
    tokens, mask = tiny.rows(9, (6, 4))
    before = generation.begin._cache_size(), continuing.go_on._cache_size()
    for state in (0, 1, 3):
        generate(
            params,
            tokens,
            mask,
            cfg=cfg,
            max_new_tokens=3,
            eos_ids=(1,),
            prompt_edit=edits.add_at(state, jnp.ones((2, 1, cfg.embed_dim))),
        )
    assert (generation.begin._cache_size(), continuing.go_on._cache_size()) == (before[0] + 1, before[1] + 1)
