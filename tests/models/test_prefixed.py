"""Behind an opening that is computed once a model says what it says of whole prompts."""

import jax.numpy as jnp
import numpy as np
import pytest

from latent_audit import models
from latent_audit.models import decoder, prefixed
from latent_audit.models.generate import generate
from tests.support import tiny

OPENING = 9
# Windows of tiny.CASES are shorter than the rows; these have none.
FULL = ["llama3", "gemma", "mixtral", "smollm3", "ministral3"]


def put(case):
    """(params, cfg, opening [S], rest [B, T], its mask, whole rows [B, S + T], left-padded as generate takes them)."""
    cfg, params = models.load(tiny.checkpoint(case))
    rest, mask = tiny.rows(seed=3)
    opening = np.random.default_rng(4).integers(3, 90, OPENING).astype(np.int32)
    whole = np.zeros((len(rest), OPENING + rest.shape[1]), np.int32)
    seen = np.zeros(whole.shape, bool)
    for row, (own, real) in enumerate(zip(rest, mask, strict=True)):
        text = np.concatenate([opening, own[real]])
        whole[row, -len(text) :] = text
        seen[row, -len(text) :] = True
    return params, cfg, opening, rest, mask, whole, seen


@pytest.mark.parametrize("case", FULL)
def test_logits_and_replies_are_those_of_whole_prompts(case):
    params, cfg, opening, rest, mask, whole, seen = put(case)
    options = {"cfg": cfg, "max_new_tokens": 6, "eos_ids": cfg.eos_ids, "pad_id": 0}
    assert prefixed.is_possible(cfg, whole.shape[1] + 6)
    kept = prefixed.open_with(params, opening, cfg=cfg)
    assert kept.keys.shape == (cfg.num_layers, 1, cfg.num_kv_heads, OPENING, cfg.head_dim)
    behind = np.concatenate([np.ones((len(rest), OPENING), bool), mask], axis=1)
    x, _ = prefixed.columns_behind(params, decoder.embed(params, rest, cfg=cfg), kept, jnp.asarray(behind), cfg=cfg)
    ours = np.asarray(decoder.unembed(params, x[:, -1], cfg=cfg))
    reference = [tiny.reference(tiny.model(case), row[real]).logits[-1] for row, real in zip(whole, seen, strict=True)]
    # As tests/models/test_parity.py: float32, whose sums run in another order.
    np.testing.assert_allclose(ours, np.stack(reference), atol=2e-4)
    assert np.ptp(ours, axis=0).max() > 0.1  # rows that differ
    plain, found = (
        generate(params, whole, seen, **options),
        prefixed.generate_behind(params, kept, rest, mask, **options),
    )
    for one, other in zip(plain, found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("case, possible", [("mistral", False), ("qwen3_5", False), ("gemma4", False), ("qwen2", True)])
def test_models_that_step_through_columns_or_count_them_take_whole_prompts(case, possible):
    cfg = models.check(tiny.checkpoint(case)).cfg
    assert prefixed.is_possible(cfg, 40) == possible
    # A window that reaches over all columns never parts them.
    assert prefixed.is_possible(cfg, 5) == (possible or case == "mistral")


def test_an_end_token_ends_a_row_and_the_others_go_on():
    params, cfg, opening, rest, mask, *_ = put("llama3")
    kept = prefixed.open_with(params, opening, cfg=cfg)
    options = {"cfg": cfg, "max_new_tokens": 5, "pad_id": 7}
    free = np.asarray(prefixed.generate_behind(params, kept, rest, mask, eos_ids=(), **options).tokens)
    end = int(free[0, 1])
    found = prefixed.generate_behind(params, kept, rest, mask, eos_ids=(end,), **options)
    for own, tokens, length in zip(free, np.asarray(found.tokens), found.lengths, strict=True):
        wanted = own.tolist().index(end) + 1 if end in own else 5
        assert length == wanted and tokens.tolist() == [*own[:wanted], *[7] * (5 - wanted)]
